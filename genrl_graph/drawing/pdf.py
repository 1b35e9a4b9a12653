"""Render a picture as a PDF of one page: vector paths, and text in Helvetica, which every reader has."""

import zlib
from collections.abc import Iterator

from genrl_graph.drawing.fonts import text_width
from genrl_graph.drawing.kinds import FRAME, FRAME_LINE, MUTED, PAPER, WEIGHTS, WRONG, style_of
from genrl_graph.drawing.layout import BAR_INSET, BOLD, SIZES, LegendEntry, PlacedBox, TextLine, Wire, layout
from genrl_graph.drawing.picture import Picture
from genrl_graph.drawing.shapes import Path, outline, polygon, rounded
from genrl_graph.drawing.svg import DASHES, LANE, line_colour, text_colour

_SMOOTH = 6.0
"""Radius of the corners of lines and frames."""


def pdf(picture: Picture) -> bytes:
    """Render a picture as a PDF file; characters that Helvetica lacks become question marks."""
    drawn = layout(picture)
    commands = [f"1 0 0 -1 0 {_n(drawn.height)} cm"]  # y runs down, as in the layout
    if not picture.look.transparent:
        commands += _filled([_rectangle(0, 0, drawn.width, drawn.height)], PAPER)
    for frame in drawn.frames:
        border = outline("rounded", frame.x, frame.y, frame.w, frame.h)
        commands += [*_filled(border, FRAME), *_stroked(border, FRAME_LINE, 1.0), *_shown(frame.label)]
    for lane in drawn.lanes:
        line = rounded([(lane.x, lane.y), (lane.x + lane.w, lane.y)], 0)
        commands += [*_stroked([line], MUTED, 1.0, LANE), *_shown(lane.label)]
    for wire in drawn.wires:
        commands += _wire(wire)
    for text in drawn.texts:
        commands += _shown(text)
    for placed in drawn.boxes:
        commands += _box(placed)
    for entry in drawn.legend:
        commands += _legend_entry(entry)
    return _file("\n".join(commands).encode("latin-1"), drawn.width, drawn.height)


def _wire(wire: Wire) -> Iterator[str]:
    colour = line_colour(wire.line.style, wire.kind, wrong=wire.wrong)
    x, y = wire.points[-1]
    way = rounded([*wire.points[:-1], (x, y - 5)], _SMOOTH)
    yield from _stroked([way], colour, 1.4, DASHES[wire.line.style])
    yield from _filled([polygon((x, y + 1), (x - 3.4, y - 6.5), (x + 3.4, y - 6.5))], colour)


def _box(placed: PlacedBox) -> Iterator[str]:
    yield from _outline(placed.box.kind, placed.x, placed.y, placed.w, placed.h, wrong=bool(placed.box.problems))
    if placed.bar is not None:
        x, y = placed.x + BAR_INSET, placed.y + placed.h - 10
        yield from _filled([_rectangle(x, y, placed.w - 2 * BAR_INSET, 3)], PAPER)
        yield from _filled([_rectangle(x, y, placed.bar, 3)], style_of(placed.box.kind).line)
    for text in placed.texts:
        yield from _shown(text)


def _outline(kind: str, x: float, y: float, w: float, h: float, *, wrong: bool = False) -> Iterator[str]:
    style = style_of(kind)
    colour = WRONG if wrong else style.line
    border, *inner = outline(style.shape, x, y, w, h)
    yield from _filled([border], style.fill)
    yield from _stroked([border], colour, 2.4 if wrong else 1.6)
    yield from _stroked(inner, colour, 1.0)


def _legend_entry(entry: LegendEntry) -> Iterator[str]:
    if not entry.kind and entry.style is None:
        yield from _shown(TextLine(entry.x + 13, entry.y + 11, "1", "step", "middle"))
    elif entry.style is None:
        yield from _outline(entry.kind, entry.x, entry.y, 26, 15)
    else:
        colour = MUTED if entry.style == "rows" else WEIGHTS
        way: Path = [("M", entry.x, entry.y + 8), ("L", entry.x + 26, entry.y + 8)]
        yield from _stroked([way], colour, 1.6, DASHES[entry.style])
    yield from _shown(entry.text)


def _shown(text: TextLine) -> Iterator[str]:
    size, bold = SIZES[text.style], text.style in BOLD
    shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.anchor] * text_width(text.text, size, bold=bold)
    plain = text.text.encode("cp1252", "replace").decode("latin-1")
    escaped = "".join(f"\\{ord(c):03o}" if c in "()\\" or not " " <= c <= "~" else c for c in plain)
    font = "/B" if bold else "/R"
    at = f"1 0 0 -1 {_n(text.x - shift)} {_n(text.y)} Tm"
    yield f"BT {font} {_n(size)} Tf {_rgb(text_colour(text))} rg {at} ({escaped}) Tj ET"


def _filled(paths: list[Path], colour: str) -> list[str]:
    return [f"{_rgb(colour)} rg", *map(_drawn, paths), "f"]


def _stroked(paths: list[Path], colour: str, width: float, dashes: str = "") -> list[str]:
    return [f"{_rgb(colour)} RG {_n(width)} w [{dashes}] 0 d", *map(_drawn, paths), "S"] if paths else []


def _drawn(path: Path) -> str:
    """Return the operators of a path; PDF has cubic curves only."""
    words, at = [], (0.0, 0.0)
    for command in path:
        if len(command) == 3:
            at = (command[1], command[2])
            words.append(f"{_n(at[0])} {_n(at[1])} {command[0].lower()}")
        elif len(command) == 5:
            (_, cx, cy, x, y), (x0, y0) = command, at
            ends = (x0 + 2 / 3 * (cx - x0), y0 + 2 / 3 * (cy - y0), x + 2 / 3 * (cx - x), y + 2 / 3 * (cy - y), x, y)
            words.append(f"{' '.join(map(_n, ends))} c")
            at = (x, y)
        else:
            words.append("h")
    return " ".join(words)


def _rectangle(x: float, y: float, w: float, h: float) -> Path:
    return polygon((x, y), (x + w, y), (x + w, y + h), (x, y + h))


def _rgb(colour: str) -> str:
    return " ".join(f"{int(colour[at : at + 2], 16) / 255:.3g}" for at in (1, 3, 5))


def _n(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _file(contents: bytes, width: float, height: float) -> bytes:
    """Return a PDF file of one page with these drawing operators."""
    packed = zlib.compress(contents, 9)
    font = b"<< /Type /Font /Subtype /Type1 /Encoding /WinAnsiEncoding /BaseFont /Helvetica%b >>"
    box = f"[0 0 {_n(width)} {_n(height)}]".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox %b /Contents 4 0 R /Resources << /Font << /R 5 0 R /B 6 0 R >> >> >>"
        % box,
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%b\nendstream" % (len(packed), packed),
        font % b"",
        font % b"-Bold",
    ]
    file, offsets = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(file))
        file += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    end = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(file))
    return file + b"xref\n0 %d\n0000000000 65535 f \n%b" % (size, table) + end
