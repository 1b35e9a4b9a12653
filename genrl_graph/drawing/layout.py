"""Compute the geometry of a picture, in points, for the SVG, PNG and HTML formats; without Graphviz and fonts."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from genrl_graph.drawing.fonts import fitted, text_width
from genrl_graph.drawing.picture import Box, Line, Picture, Style
from genrl_graph.drawing.place import Grid, place
from genrl_graph.drawing.route import LinePath, Route, Routes, route
from genrl_graph.drawing.shapes import Point

MARGIN, PAD, TRACK, PORT, GAP = 22.0, 14.0, 9.0, 20.0, 12.0
HEAD, ARROW, LABEL = 22.0, 17.0, 13.0  # above the first row of a stage, above a box, and for the label below one
NARROW, WIDE = 116.0, 230.0
PARAMS, BAR_INSET = 8, 30.0

TextStyle = Literal["title", "subtitle", "stage", "name", "type", "note", "param", "number", "step", "label", "problem"]
SIZES: dict[TextStyle, float] = {
    "title": 16,
    "subtitle": 10.5,
    "stage": 10.5,
    "name": 12,
    "type": 10,
    "note": 9,
    "param": 9,
    "number": 9.5,
    "step": 8,
    "label": 9,
    "problem": 10,
}
BOLD: frozenset[TextStyle] = frozenset({"title", "name", "stage"})


@dataclass(frozen=True, slots=True)
class TextLine:
    """One line of text; `y` is its baseline."""

    x: float
    y: float
    text: str
    style: TextStyle
    anchor: Literal["start", "middle", "end"] = "start"
    line: Style | None = None  # style of the line that a label belongs to


@dataclass(frozen=True, slots=True)
class StageFrame:
    """The frame of a stage."""

    x: float
    y: float
    w: float
    h: float
    label: TextLine


@dataclass(frozen=True, slots=True)
class LaneLine:
    """The line above the boxes of a role, and the name of the role."""

    x: float
    y: float
    w: float
    label: TextLine


@dataclass(frozen=True, slots=True)
class PlacedBox:
    """A box, its rectangle and its texts; `bar` is the width of the bar that shows its share of the time."""

    box: Box
    x: float
    y: float
    w: float
    h: float
    texts: tuple[TextLine, ...]
    bar: float | None


@dataclass(frozen=True, slots=True)
class Wire:
    """The path of a line to one reader, as its corners."""

    line: Line
    kind: str
    reader: str
    points: tuple[Point, ...]

    @property
    def wrong(self) -> bool:
        """True where `check` finds a problem with what this reader reads."""
        return self.reader in self.line.wrong


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """An entry of the legend: a kind, a style of line, or (with neither) the step numbers above boxes."""

    x: float
    y: float
    kind: str
    style: Style | None
    text: TextLine


@dataclass(frozen=True, slots=True)
class Layout:
    """All elements of a drawing; fields are in drawing order, from back to front."""

    width: float
    height: float
    frames: tuple[StageFrame, ...]
    lanes: tuple[LaneLine, ...]
    wires: tuple[Wire, ...]
    boxes: tuple[PlacedBox, ...]
    texts: tuple[TextLine, ...]
    legend: tuple[LegendEntry, ...]


def layout(picture: Picture) -> Layout:
    """Compute the geometry of a picture."""
    grid = place(picture)
    return _LayoutBuilder(picture, grid, route(picture, grid)).layout()


class _LayoutBuilder:
    """Turns cells and tracks into coordinates."""

    def __init__(self, picture: Picture, grid: Grid, routes: Routes) -> None:
        self.picture, self.grid, self.routes = picture, grid, routes
        self.contents = {name: _contents(picture, box) for name, box in picture.boxes.items()}
        widest = max(
            (text_width(t, SIZES[s], bold=s in BOLD) for lines in self.contents.values() for t, s in lines), default=0.0
        )
        labels = [2 * (self._label_width(item) - PAD) for item in routes.routes]
        self.w = min(max([widest + 34, NARROW, *labels]), WIDE)
        self.heights = {
            name: 18.0 + sum(1.32 * SIZES[s] for _, s in lines) + 6.0 * (self._share(name) is not None)
            for name, lines in self.contents.items()
        }
        self._lane_rows = {row for rows in grid.lanes.values() for row in rows.values()}
        self.top = MARGIN + (44 if picture.look.title else 4)
        self.lefts = self._columns()
        self.tops = self._rows()

    def layout(self) -> Layout:
        """Lay out the whole picture, with its title above and its legend below."""
        frames = tuple(self._frame(stage) for stage in self.grid.spans)
        right = max([frame.x + frame.w for frame in frames], default=0.0)
        right = max(right, self.lefts[-1] + self._tracks("gutter", self.grid.columns) + 4)
        title = self.picture.measured and f"{self.picture.subtitle} · {self.picture.measured}"
        texts = [
            TextLine(MARGIN, MARGIN + 12, self.picture.name, "title"),
            TextLine(MARGIN, MARGIN + 28, title or self.picture.subtitle, "subtitle"),
        ]
        texts = texts if self.picture.look.title else []
        titles = len(texts)
        texts += [self._label(item) for item in self.routes.routes]
        texts += [self._step(box) for box in self.picture.boxes.values() if box.steps]
        width = max([right + MARGIN, *(MARGIN * 2 + text_width(t.text, SIZES[t.style]) for t in texts[:titles]), 420.0])
        bottom = self.tops[-1] + self._tracks("channel", self.grid.rows) + (self._label_zone(self.grid.rows) + 10)
        bottom += 14
        legend = _legend(self.picture, bottom, width) if self.picture.look.legend else []
        bottom = legend[-1].y + 16 if legend else bottom - 14
        texts += _problem_lines(self.picture, bottom + 10, width)
        bottom = texts[-1].y + 4 if self.picture.problems else bottom
        wires = [self._wire(item, path) for item in self.routes.routes for path in item.paths]
        boxes = tuple(self._place_box(box) for box in self.picture.boxes.values())
        lanes = tuple(self._lane(band, role) for band, rows in self.grid.lanes.items() for role in rows)
        return Layout(width, bottom + MARGIN, frames, lanes, tuple(wires), boxes, tuple(texts), tuple(legend))

    def _share(self, name: str) -> float | None:
        return self.picture.boxes[name].numbers.time_share

    def _tracks(self, kind: str, at: int) -> float:
        return TRACK * self.routes.tracks.get((kind, at), 0)

    def _columns(self) -> list[float]:
        """Return the left side of every column, and the end of the last one."""
        starts, ends = ({span[at] for span in self.grid.spans.values()} for at in (0, 1))
        gaps = []
        for column in range(self.grid.columns + 1):
            gap = 10 + self._tracks("gutter", column)
            gap += PAD * (column in starts) + PAD * (column - 1 in ends) + (0 if column in starts else 6)
            gaps.append(gap)
        gaps[0] -= 10
        return list(accumulate((self.w + gap for gap in gaps[1:]), initial=MARGIN + gaps[0]))

    def _rows(self) -> list[float]:
        """Return the top of every row, and the bottom of the last one."""
        cells, top = self.grid.cells, self.top + HEAD
        tops = []
        for row in range(self.grid.rows):
            top += GAP + HEAD if row and row in self.grid.bands else 0.0
            top += HEAD if row in self._lane_rows else 0.0
            top += self._label_zone(row) + self._tracks("channel", row) + ARROW
            tops.append(top)
            top += max((self.heights[name] for name, cell in cells.items() if cell.row == row), default=0.0)
        return [*tops, top]

    def _label_zone(self, channel: int) -> float:
        """Return the height that labels of the row above a channel need."""
        counts: dict[str, int] = {}
        for item in self.routes.routes:
            if self.grid.cells[item.line.origin].row == channel - 1:
                counts[item.line.origin] = counts.get(item.line.origin, 0) + 1
        return 5 + LABEL * ((max(counts.values()) + 1) // 2) if counts else 4.0

    def _channel(self, at: int, item: Route) -> float:
        """Return the y of a route's track in a channel."""
        track = item.tracks[("channel", at)]
        if at == self.grid.rows:
            return self.tops[at] + self._label_zone(at) + 8 + TRACK * track
        return self.tops[at] - ARROW - self._tracks("channel", at) + TRACK * track + TRACK / 2

    def _gutter(self, at: int, item: Route) -> float:
        """Return the x of a route's track in a gutter, which lies outside the frames of stages."""
        track = item.tracks[("gutter", at)]
        starts = {span[0] for span in self.grid.spans.values()}
        if at == self.grid.columns:
            return self.lefts[at] - self._tracks("gutter", at) + TRACK * track
        right = self.lefts[at] - (PAD + 7 if at in starts else 8)
        return right - TRACK * (self.routes.tracks[("gutter", at)] - 1 - track)

    def _frame(self, stage: int) -> StageFrame:
        first, last = self.grid.spans[stage]
        x, band = self.lefts[first] - PAD, self.grid.band_of[stage]
        y, below = self._band_top(band), band + 1 < len(self.grid.bands)
        end = self._band_top(band + 1) - GAP if below else self.tops[-1] + self._label_zone(self.grid.rows)
        h = end - y
        w = self.lefts[last] + self.w + PAD - x
        return StageFrame(x, y, w, h, TextLine(x + 10, y + 17, f"stage {stage}", "stage"))

    def _band_top(self, band: int) -> float:
        """Return the top of the frames of a band of stages."""
        row = self.grid.bands[band]
        head = HEAD * (1 + (row in self._lane_rows))
        return self.tops[row] - ARROW - self._tracks("channel", row) - head - 4 if band else self.top - 4

    def _lane(self, band: int, role: str) -> LaneLine:
        """Return the line above a role's boxes, from the first to the last stage of a band."""
        spans = [span for stage, span in self.grid.spans.items() if self.grid.band_of[stage] == band]
        row = self.grid.lanes[band][role]
        x, y = self.lefts[spans[0][0]] - PAD, self.tops[row] - ARROW - self._tracks("channel", row) - HEAD + 4
        w = self.lefts[spans[-1][1]] + self.w + PAD - x
        return LaneLine(x, y, w, TextLine(x + 4, y + 14, role, "stage"))

    def _port(self, name: str, port: int) -> float:
        """Return the x of a port of a box; the more ports, the closer they are."""
        ports = [abs(path.port) for item in self.routes.routes for path in item.paths if path.reader == name]
        ports += [abs(item.port) for item in self.routes.routes if item.line.origin == name]
        step = min(PORT / 4, (self.w / 2 - 20) / max([1, *ports]))
        return self.lefts[self.grid.cells[name].column] + self.w / 2 + port * step

    def _wire(self, item: Route, path: LinePath) -> Wire:
        origin = item.line.origin
        x, end = self._port(origin, item.port), self._port(path.reader, path.port)
        top = self.tops[self.grid.cells[origin].row] + self.heights[origin]
        points: list[Point] = [(x, top)]
        if path.gutter is not None:
            over = self._gutter(path.gutter, item)
            y, last = self._channel(path.start, item), self._channel(path.end, item)
            points += [(x, y), (over, y), (over, last), (end, last)]
        elif x != end:
            y = self._channel(path.start, item)
            points += [(x, y), (end, y)]
        points.append((end, self.tops[self.grid.cells[path.reader].row] - 1))
        return Wire(item.line, self.picture.boxes[origin].kind, path.reader, tuple(points))

    def _label(self, item: Route) -> TextLine:
        """Return the label of a line, its type, beside the port by which it leaves its box."""
        origin = item.line.origin
        others = [other for other in self.routes.routes if other.line.origin == origin]
        at = others.index(item)
        left = len(others) > 1 and at % 2 == 0
        y = self.tops[self.grid.cells[origin].row] + self.heights[origin] + 12 + LABEL * (at // 2)
        x = self._port(origin, item.port) + (-4 if left else 4)
        start = self.lefts[self.grid.cells[origin].column]
        room = x - start + PAD - 4 if left else start + self.w + PAD - 4 - x
        text = fitted(item.line.label, SIZES["label"], room)
        return TextLine(x, y, text, "label", "end" if left else "start", item.line.style)

    def _label_width(self, item: Route) -> float:
        """Return the distance from the middle of a box to the end of a line's label."""
        return abs(item.port) * PORT / 4 + 8 + text_width(item.line.label, SIZES["label"])

    def _step(self, box: Box) -> TextLine:
        cell = self.grid.cells[box.name]
        return TextLine(self.lefts[cell.column] + 2, self.tops[cell.row] - 4, ", ".join(map(str, box.steps)), "step")

    def _place_box(self, box: Box) -> PlacedBox:
        cell = self.grid.cells[box.name]
        x, y, h = self.lefts[cell.column], self.tops[cell.row], self.heights[box.name]
        texts, base = [], y + 8
        for text, style in self.contents[box.name]:
            base += 1.32 * SIZES[style]
            shown = fitted(text, SIZES[style], self.w - 28)
            texts.append(TextLine(x + self.w / 2, base - 0.3 * SIZES[style] + 0.5, shown, style, "middle"))
        share = self._share(box.name)
        bar = None if share is None else share * (self.w - 2 * BAR_INSET)
        return PlacedBox(box, x, y, self.w, h, tuple(texts), bar)


def _contents(picture: Picture, box: Box) -> list[tuple[str, TextStyle]]:
    """Return the lines of text in a box: name, type, note, params if shown, and numbers."""
    lines: list[tuple[str, TextStyle]] = [(box.name, "name"), (box.type_name, "type")]
    if box.note:
        lines.append((box.note, "note"))
    if box.problems:
        lines.append((f"problem {', '.join(map(str, box.problems))}", "problem"))
    if picture.with_params:
        shown = list(box.params.items())
        cut = shown if len(shown) <= PARAMS else shown[: PARAMS - 1]
        lines += [(fitted(f"{name}: {value}", SIZES["param"], WIDE - 34), "param") for name, value in cut]
        lines += [(f"and {len(shown) - len(cut)} more", "note")] if len(cut) < len(shown) else []
    return lines + [(text, "number") for text in _in_pairs(box.numbers.texts())]


def _problem_lines(picture: Picture, top: float, width: float) -> list[TextLine]:
    """Return the problems of a picture, numbered and wrapped to its width."""
    lines: list[TextLine] = []
    for number, problem in enumerate(picture.problems, start=1):
        room, indent = width - 2 * MARGIN - 22, 0.0
        for text in _wrapped(f"{number}. {problem}", room):
            top += 1.4 * SIZES["problem"]
            lines.append(TextLine(MARGIN + indent, top, text, "problem"))
            indent = 14.0
    return lines


def _wrapped(text: str, width: float) -> list[str]:
    """Return a text in lines of at most `width`, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, SIZES["problem"]) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [fitted(line, SIZES["problem"], width) for line in lines]


def _in_pairs(texts: list[str]) -> list[str]:
    """Join short texts, two per line."""
    lines: list[str] = []
    for text in texts:
        if lines and " · " not in lines[-1] and len(lines[-1]) + len(text) <= 26:
            lines[-1] += f" · {text}"
        else:
            lines.append(text)
    return lines


def _legend(picture: Picture, top: float, width: float) -> list[LegendEntry]:
    """Return the legend of the kinds and line styles that occur, wrapped to the width."""
    styles: dict[Style, str] = {"rows": "rows", "weights": "weights", "next": "to the next round"}
    entries: list[tuple[str, Style | None, str]] = [(kind, None, kind) for kind in picture.kinds()]
    entries += [("", style, text) for style, text in styles.items() if any(x.style == style for x in picture.lines)]
    entries += [("", None, "step of the round")] if any(box.steps for box in picture.boxes.values()) else []
    keys: list[LegendEntry] = []
    x, y = MARGIN, top
    for kind, style, text in entries:
        needed = 34 + text_width(text, SIZES["label"]) + 16
        if x + needed > width - MARGIN / 2 and keys:
            x, y = MARGIN, y + 22
        keys.append(LegendEntry(x, y, kind, style, TextLine(x + 33, y + 11, text, "label")))
        x += needed
    return keys
