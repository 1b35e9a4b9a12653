"""Render a picture as SVG: on white, to be readable on any page; its classes let a page style it."""

from collections.abc import Iterator
from html import escape

from genrl_graph.drawing.kinds import FRAME, FRAME_LINE, INK, MUTED, PAPER, WEIGHTS, WRONG, style_of
from genrl_graph.drawing.layout import BAR_INSET, BOLD, SIZES, Layout, LegendEntry, PlacedBox, TextLine, Wire, layout
from genrl_graph.drawing.picture import Picture, Style
from genrl_graph.drawing.shapes import Path, outline, polygon, rounded

FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
LANE = "1 3"
"""Dashes of the line above the boxes of a role."""
DASHES: dict[Style, str] = {"rows": "", "weights": "6 4", "next": "2 3"}


def svg(picture: Picture) -> str:
    """Render a picture as one SVG document; equal pictures give equal bytes."""
    drawn = layout(picture)
    size = f'width="{_n(drawn.width)}" height="{_n(drawn.height)}" viewBox="0 0 {_n(drawn.width)} {_n(drawn.height)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}">',
            f"<title>{_text(f'{picture.name}: {picture.subtitle}')}</title>",
            *([] if picture.look.transparent else [f'<rect class="paper" width="100%" height="100%" fill="{PAPER}"/>']),
            *svg_body(drawn),
            "</svg>\n",
        ]
    )


def svg_body(drawn: Layout) -> Iterator[str]:
    """Yield the elements of the picture, from back to front."""
    for frame in drawn.frames:
        area = f'x="{_n(frame.x)}" y="{_n(frame.y)}" width="{_n(frame.w)}" height="{_n(frame.h)}" rx="8"'
        yield f'<g class="stage"><rect {area} fill="{FRAME}" stroke="{FRAME_LINE}"/>{_label(frame.label)}</g>'
    for lane in drawn.lanes:
        line = f'd="M{_n(lane.x)} {_n(lane.y)}h{_n(lane.w)}" fill="none" stroke="{MUTED}" stroke-dasharray="{LANE}"'
        yield f'<g class="lane"><path {line}/>{_label(lane.label)}</g>'
    for wire in drawn.wires:
        yield _wire(wire)
    yield from (_label(text) for text in drawn.texts)
    for placed in drawn.boxes:
        yield from _box(placed)
    yield '<g class="legend">'
    yield from (_key(key) for key in drawn.legend)
    yield "</g>"


def line_colour(style: Style, kind: str, *, wrong: bool = False) -> str:
    """Return the colour of a line: red if it is wrong, for rows that of the kind that gives them, else of weights."""
    if wrong:
        return WRONG
    return style_of(kind).line if style == "rows" else WEIGHTS


def text_colour(text: TextLine) -> str:
    """Return the colour of a text by its style."""
    if text.style == "problem":
        return WRONG
    if text.line is not None and text.line != "rows":
        return WEIGHTS
    return MUTED if text.style in ("subtitle", "stage", "step", "label", "note", "param") else INK


def _wire(wire: Wire) -> str:
    colour = line_colour(wire.line.style, wire.kind, wrong=wire.wrong)
    dash = f' stroke-dasharray="{DASHES[wire.line.style]}"' if DASHES[wire.line.style] else ""
    x, y = wire.points[-1]
    head = _path([polygon((x, y + 1), (x - 3.4, y - 6.5), (x + 3.4, y - 6.5))])
    names = f'data-from="{_text(wire.line.origin)}" data-to="{_text(wire.reader)}"'
    sockets = ", ".join(read.socket for read in wire.line.reads if read.reader == wire.reader)
    tooltip = f"{wire.line.ref} ({wire.line.label}) → {wire.reader}.{sockets}"
    kind = f"k-{wire.kind}" if wire.line.style == "rows" else "k-carry"
    body = _path([rounded([*wire.points[:-1], (x, y - 5)], 6)])
    kind += " wrong" if wire.wrong else ""
    return (
        f'<g class="wire {wire.line.style} {_text(kind)}" {names}><title>{_text(tooltip)}</title>'
        f'<path class="way" d="{body}" fill="none" stroke="{colour}" stroke-width="1.4"{dash}/>'
        f'<path class="head" d="{head}" fill="{colour}"/></g>'
    )


def _box(placed: PlacedBox) -> Iterator[str]:
    box = placed.box
    wrong = " wrong" if box.problems else ""
    yield f'<g class="box k-{_text(box.kind)}{wrong}" data-name="{_text(box.name)}">'
    yield f"<title>{_text(f'{box.name}: {box.type_name}')}</title>"
    yield _outline(box.kind, placed.x, placed.y, placed.w, placed.h, wrong=bool(box.problems))
    if placed.bar is not None:
        x, y = placed.x + BAR_INSET, placed.y + placed.h - 10
        whole = _n(placed.w - 2 * BAR_INSET)
        yield f'<rect class="bar" x="{_n(x)}" y="{_n(y)}" width="{whole}" height="3" fill="{PAPER}"/>'
        yield (
            f'<rect class="time" x="{_n(x)}" y="{_n(y)}" width="{_n(placed.bar)}" height="3" '
            f'fill="{style_of(box.kind).line}"/>'
        )
    yield from (_label(text) for text in placed.texts)
    yield "</g>"


def _outline(kind: str, x: float, y: float, w: float, h: float, *, wrong: bool = False) -> str:
    style = style_of(kind)
    colour = WRONG if wrong else style.line
    border, *inner = outline(style.shape, x, y, w, h)
    colours = f'fill="{style.fill}" stroke="{colour}"'
    thick = "2.4" if wrong else "1.6"
    element = f'<path class="outline" d="{_path([border])}" {colours} stroke-width="{thick}"/>'
    if inner:
        element += f'<path class="inner" d="{_path(inner)}" fill="none" stroke="{colour}"/>'
    return element


def _key(key: LegendEntry) -> str:
    if not key.kind and key.style is None:
        return _label(TextLine(key.x + 13, key.y + 11, "1", "step", "middle")) + _label(key.text)
    if key.style is None:
        return f'<g class="box k-{_text(key.kind)}">{_outline(key.kind, key.x, key.y, 26, 15)}{_label(key.text)}</g>'
    colour = MUTED if key.style == "rows" else WEIGHTS
    dash = f' stroke-dasharray="{DASHES[key.style]}"' if DASHES[key.style] else ""
    line = f'd="M{_n(key.x)} {_n(key.y + 8)}h26" fill="none" stroke="{colour}" stroke-width="1.6"{dash}'
    carried = "" if key.style == "rows" else " k-carry"
    return f'<g class="wire {key.style}{carried}"><path class="way" {line}/>{_label(key.text)}</g>'


def _label(text: TextLine) -> str:
    anchor = "" if text.anchor == "start" else f' text-anchor="{text.anchor}"'
    weight = ' font-weight="bold"' if text.style in BOLD else ""
    style = "" if text.line is None else f" {text.line}"
    return (
        f'<text class="{text.style}{style}" x="{_n(text.x)}" y="{_n(text.y)}" font-size="{_n(SIZES[text.style])}" '
        f'fill="{text_colour(text)}"{anchor}{weight}>{_text(text.text)}</text>'
    )


def _path(paths: list[Path]) -> str:
    return "".join(command[0] + " ".join(_n(number) for number in command[1:]) for path in paths for command in path)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _text(text: str) -> str:
    """Escape text for XML, without the characters that XML cannot hold."""
    return escape("".join(c for c in text if c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff"))
