"""Render a picture as one HTML file that needs no network: drag, zoom, search, and a panel for the clicked node."""

import json
from html import escape
from importlib.resources import files
from typing import Any

from genrl_graph.drawing.kinds import style_of
from genrl_graph.drawing.layout import layout
from genrl_graph.drawing.picture import Box, Picture
from genrl_graph.drawing.svg import FONT, svg_body

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<main>
<div id="bar">
<button id="in" type="button" title="zoom in (+)">+</button>
<button id="out" type="button" title="zoom out (-)">−</button>
<button id="fit" type="button" title="all of it (0)">fit</button>
<input id="search" type="search" placeholder="find a node or a type  /" aria-label="find a node or a type">
<span id="found"></span>
</div>
<svg id="picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{font}" role="img">
{body}
</svg>
</main>
<aside id="panel" hidden></aside>
<script id="data" type="application/json">{data}</script>
<script>
{js}</script>
</body>
</html>
"""


def html(picture: Picture) -> str:
    """Render a picture as an HTML page; equal pictures give equal bytes."""
    drawn = layout(picture)
    width, height = round(drawn.width, 1), round(drawn.height, 1)
    data = {
        "width": width,
        "height": height,
        "measured": picture.measured,
        "boxes": {name: panel_data(picture, box) for name, box in picture.boxes.items()},
    }
    assets = files("genrl_graph.drawing")
    return _PAGE.format(
        title=escape(f"{picture.name}: {picture.subtitle}"),
        css=assets.joinpath("page.css").read_text() + _dark_styles(picture),
        width=width,
        height=height,
        font=FONT,
        body="\n".join(svg_body(drawn)),
        data=script_safe_json(data),
        js=assets.joinpath("page.js").read_text(),
    )


def panel_data(picture: Picture, box: Box) -> dict[str, Any]:
    """Return the data that page.js shows in the panel of a box."""
    place = "carried from round to round" if box.stage is None else f"stage {box.stage}"
    if len(box.steps) == 1:
        place += f" · step {box.steps[0]}"
    place += f" · role {box.role}" if box.role else ""
    return {
        "type": box.type_name,
        "place": f"{place} · {box.note}" if box.note else place,
        "doc": box.doc,
        "numbers": box.numbers.texts(),
        "inputs": [{"socket": s, "origin": x.origin, "label": x.label} for s, x in picture.inputs(box.name)],
        "outputs": [
            {"label": line.label, "reader": read.reader, "socket": read.socket}
            for line in picture.lines
            if line.origin == box.name
            for read in line.reads
        ],
        "params": list(box.params.items()),
    }


def script_safe_json(data: object) -> str:
    """Return data as JSON that cannot close the script element around it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode(errors="replace").decode()


def _dark_styles(picture: Picture) -> str:
    return "@media (prefers-color-scheme: dark) {\n" + "\n".join(dark_rules(picture, "  #picture")) + "\n}\n"


def dark_rules(picture: Picture, within: str) -> list[str]:
    """Return CSS rules with the colours of kinds for dark mode: lighter borders, darker fills; `within` a selector."""
    rules = []
    for kind in dict.fromkeys([*picture.kinds(), "carry"]):
        style = style_of(kind)
        line, fill = _mixed_colour(style.line, "#ffffff", 0.45), _mixed_colour(style.line, "#0d1117", 0.72)
        rules.append(f"{within} .k-{kind} .outline {{ fill: {fill}; stroke: {line}; }}")
        rules.append(f"{within} .k-{kind} .inner, {within.strip()} .k-{kind} .way {{ stroke: {line}; }}")
        rules.append(f"{within} .k-{kind} .head, {within.strip()} .k-{kind} .time {{ fill: {line}; }}")
    return rules


def _mixed_colour(rgb: str, other: str, share: float) -> str:
    """Return a colour blended with a share, 0 to 1, of another one."""
    pairs = ((int(rgb[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
