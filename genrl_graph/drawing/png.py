"""Render a picture as PNG with Pillow and its built-in font, on white or a transparent ground."""

import io
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from genrl_graph.drawing.kinds import FRAME, FRAME_LINE, MUTED, PAPER, WEIGHTS, WRONG, style_of
from genrl_graph.drawing.layout import BAR_INSET, BOLD, SIZES, Layout, LegendEntry, PlacedBox, TextLine, Wire, layout
from genrl_graph.drawing.picture import Picture
from genrl_graph.drawing.shapes import Point, flat, outline, rounded
from genrl_graph.drawing.svg import DASHES, LANE, line_colour, text_colour
from genrl_graph.errors import ParamError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import ImageFont

SCALE = 2.0
"""Pixels per point."""
PIXELS = 60e6
"""Most pixels of the image before it is scaled down; a larger picture is drawn with coarser edges."""


def png(picture: Picture) -> bytes:
    """Render a picture as a PNG file with two pixels per point, fewer for a very large picture.

    Raises `ParamError` where Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ParamError(
            "--format png: draws with Pillow, which is missing: pip install pillow, or draw svg"
        ) from error
    drawn = layout(picture)
    area = drawn.width * drawn.height
    scale = min(SCALE, math.sqrt(PIXELS / area))
    fine = scale * (2 if area * (2 * scale) ** 2 <= PIXELS else 1)
    ground = ("RGBA", f"{PAPER}00") if picture.look.transparent else ("RGB", PAPER)
    image = Image.new(ground[0], (round(drawn.width * fine), round(drawn.height * fine)), ground[1])
    _Brush(ImageDraw.Draw(image), fine).layout(drawn)
    size = (round(drawn.width * scale), round(drawn.height * scale))
    file = io.BytesIO()
    dpi = 72 * scale
    image.resize(size, Image.Resampling.LANCZOS).save(file, "PNG", dpi=(dpi, dpi))
    return file.getvalue()


class _Brush:
    """Draws in points on an image of `scale` pixels a point."""

    def __init__(self, draw: "ImageDraw", scale: float) -> None:
        self.draw, self.scale = draw, scale
        self._fonts: dict[float, ImageFont] = {}

    def layout(self, drawn: Layout) -> None:
        for frame in drawn.frames:
            corners = [self._p((frame.x, frame.y)), self._p((frame.x + frame.w, frame.y + frame.h))]
            self.draw.rounded_rectangle(corners, 8 * self.scale, FRAME, FRAME_LINE, round(self.scale))
            self._text(frame.label)
        for lane in drawn.lanes:
            for piece in _dashed([(lane.x, lane.y), (lane.x + lane.w, lane.y)], LANE):
                self._line(piece, MUTED, 1.0)
            self._text(lane.label)
        for wire in drawn.wires:
            self._wire(wire)
        for text in drawn.texts:
            self._text(text)
        for placed in drawn.boxes:
            self._box(placed)
        for key in drawn.legend:
            self._key(key)

    def _p(self, point: Point) -> Point:
        return (point[0] * self.scale, point[1] * self.scale)

    def _line(self, points: list[Point], colour: str, width: float) -> None:
        self.draw.line([self._p(point) for point in points], colour, round(width * self.scale), joint="curve")

    def _wire(self, wire: Wire) -> None:
        colour = line_colour(wire.line.style, wire.kind, wrong=wire.wrong)
        x, y = wire.points[-1]
        points = flat(rounded([*wire.points[:-1], (x, y - 5)], 6))
        for piece in _dashed(points, DASHES[wire.line.style]):
            self._line(piece, colour, 1.4)
        head = [(x, y + 1), (x - 3.4, y - 6.5), (x + 3.4, y - 6.5)]
        self.draw.polygon([self._p(point) for point in head], colour)

    def _box(self, placed: PlacedBox) -> None:
        self._outline(placed.box.kind, placed.x, placed.y, placed.w, placed.h, wrong=bool(placed.box.problems))
        if placed.bar is not None:
            x, y = placed.x + BAR_INSET, placed.y + placed.h - 10
            for width, colour in ((placed.w - 2 * BAR_INSET, PAPER), (placed.bar, style_of(placed.box.kind).line)):
                self.draw.rectangle([self._p((x, y)), self._p((x + width, y + 3))], colour)
        for text in placed.texts:
            self._text(text)

    def _outline(self, kind: str, x: float, y: float, w: float, h: float, *, wrong: bool = False) -> None:
        style = style_of(kind)
        colour = WRONG if wrong else style.line
        border, *inner = outline(style.shape, x, y, w, h)
        points = flat(border)
        self.draw.polygon([self._p(point) for point in points], style.fill)
        self._line([*points, points[1]], colour, 2.4 if wrong else 1.6)
        for path in inner:
            self._line(flat(path), colour, 1.0)

    def _key(self, key: LegendEntry) -> None:
        if not key.kind and key.style is None:
            self._text(TextLine(key.x + 13, key.y + 11, "1", "step", "middle"))
        elif key.style is None:
            self._outline(key.kind, key.x, key.y, 26, 15)
        else:
            colour = MUTED if key.style == "rows" else WEIGHTS
            for piece in _dashed([(key.x, key.y + 8), (key.x + 26, key.y + 8)], DASHES[key.style]):
                self._line(piece, colour, 1.6)
        self._text(key.text)

    def _text(self, text: TextLine) -> None:
        size = SIZES[text.style] * self.scale
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[text.anchor]
        bold = 0.022 * size if text.style in BOLD else 0  # the font has one weight
        at, colour = self._p((text.x, text.y)), text_colour(text)
        self.draw.text(at, text.text, colour, self._font(size), anchor, stroke_width=bold)

    def _font(self, size: float) -> "ImageFont":
        from PIL import ImageFont

        if size not in self._fonts:
            self._fonts[size] = ImageFont.load_default(size)
        return self._fonts[size]


def _dashed(points: list[Point], dashes: str) -> Iterator[list[Point]]:
    """Yield the visible pieces of a path under a dash pattern of lengths (on, off); all of it without a pattern."""
    if not dashes:
        yield points
        return
    lengths = [float(part) for part in dashes.split()]
    at, left, piece = 0, lengths[0], [points[0]]
    for start, end in pairwise(points):
        span, done = math.dist(start, end), 0.0
        while span - done > left:
            done += left
            cut = (start[0] + (end[0] - start[0]) * done / span, start[1] + (end[1] - start[1]) * done / span)
            if at % 2 == 0:
                yield [*piece, cut]
            at, left, piece = at + 1, lengths[(at + 1) % 2], [cut]
        left -= span - done
        piece.append(end)
    if at % 2 == 0 and len(piece) > 1:
        yield piece
