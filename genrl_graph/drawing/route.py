"""How lines run between boxes: along channels between the rows and gutters between the columns, never through a box.

Every line is a tree: down from its box, along the channel below it, through gutters to the channels above its readers,
and down into them. Where several lines share a channel or a gutter, each has a track of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from genrl_graph.drawing.picture import Line, Picture
from genrl_graph.drawing.place import Cell, Grid

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LinePath:
    """How a line reaches one reader: the channel below its box, a gutter (None if the channel suffices), the channel
    above the reader, and the reader's port."""

    start: int
    gutter: int | None
    end: int
    reader: str
    port: int


@dataclass(frozen=True, slots=True)
class Route:
    """The ways of a line, the port that it leaves its box by, and its track in every channel and gutter."""

    line: Line
    port: int
    ways: tuple[LinePath, ...]
    tracks: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Routes:
    """All routes, and how many tracks every channel (`"channel", at`) and gutter (`"gutter", at`) has."""

    routes: tuple[Route, ...]
    tracks: dict[tuple[str, int], int]


def route(picture: Picture, grid: Grid) -> Routes:
    """The routes of a picture's lines. Channel `i` is above row `i`, gutter `i` to the left of column `i`."""
    ports = _sink_ports(picture, grid)
    routes = []
    leaving: dict[str, int] = {}
    for at, line in enumerate(picture.lines):
        origin = grid.cells[line.origin]
        ways = []
        for reader in dict.fromkeys(read.reader for read in line.reads):
            cell = grid.cells[reader]
            gutter = None if cell.row == origin.row + 1 else _gutter(line, origin, cell)
            ways.append(LinePath(origin.row + 1, gutter, cell.row, reader, ports[reader, at]))
        straight = any(_straight(origin, grid.cells[way.reader]) and way.port == 0 for way in ways)
        port = _source_port(leaving.get(line.origin, 0), straight, _below(grid, origin))
        leaving[line.origin] = leaving.get(line.origin, 0) + 1
        routes.append(Route(line, port, tuple(ways)))
    return Routes(tuple(routes), _assign(routes, grid))


def _gutter(line: Line, origin: Cell, reader: Cell) -> int:
    """The gutter at the side of the reader that the line comes from."""
    if line.style == "next" or reader.column >= origin.column:
        return reader.column
    return reader.column + 1


def _straight(origin: Cell, reader: Cell) -> bool:
    return reader == Cell(origin.column, origin.row + 1)


def _below(grid: Grid, cell: Cell) -> bool:
    return Cell(cell.column, cell.row + 1) in grid.cells.values()


def _source_port(earlier: int, straight: bool, crowded: bool) -> int:
    """Offsets of ports are in quarter steps: even ones are for what comes in, odd ones for what goes out."""
    if straight and not earlier:
        return 0
    return 4 * earlier + (1 if crowded else 0)


def _sink_ports(picture: Picture, grid: Grid) -> dict[tuple[str, int], int]:
    """The port of every reader for every line: lines from the left come in at the left, from above in the middle."""
    entering: dict[str, list[tuple[int, int]]] = {}
    for at, line in enumerate(picture.lines):
        origin = grid.cells[line.origin]
        for reader in dict.fromkeys(read.reader for read in line.reads):
            cell = grid.cells[reader]
            side = 0 if _straight(origin, cell) else 1 if origin.column > cell.column and line.style != "next" else -1
            entering.setdefault(reader, []).append((side, at))
    found = {}
    for reader, lines in entering.items():
        left = [at for side, at in lines if side < 0]
        middle = [at for side, at in lines if side == 0]
        right = [at for side, at in lines if side > 0]
        row = left + middle + right
        zero = len(left) if middle else (len(row) - 1) / 2
        for place, at in enumerate(row):
            found[reader, at] = round(4 * (place - zero))
    return found


def _assign(routes: Iterable[Route], grid: Grid) -> dict[tuple[str, int], int]:
    """Give every line a track wherever it runs along, so that no two lie on each other; returns the track counts."""
    spans: dict[tuple[str, int], list[tuple[Span, int, Route]]] = {}
    for at, item in enumerate(routes):
        for where, span in _spans(item, grid).items():
            spans.setdefault(where, []).append((span, at, item))
    counts = {}
    for where, items in spans.items():
        ends: list[int] = []  # of each track, where its last line ends
        for span, _, item in sorted(items, key=lambda entry: (entry[0][0], -entry[0][1], entry[1])):
            track = next((at for at, end in enumerate(ends) if end < span[0]), len(ends))
            ends[track:] = [span[1], *ends[track + 1 :]]
            item.tracks[where] = track
        counts[where] = len(ends)
    return counts


def _spans(item: Route, grid: Grid) -> dict[tuple[str, int], Span]:
    """From where to where a line runs in every channel and gutter; columns are odd numbers, gutters even ones."""
    points: dict[tuple[str, int], set[int]] = {}
    origin = grid.cells[item.line.origin]
    for way in item.ways:
        reader = 2 * grid.cells[way.reader].column + 1
        source = 2 * origin.column + 1
        if way.gutter is None:
            if reader != source or way.port != item.port:
                points.setdefault(("channel", way.start), set()).update((source, reader))
            continue
        points.setdefault(("channel", way.start), set()).update((source, 2 * way.gutter))
        points.setdefault(("gutter", way.gutter), set()).update((way.start, way.end))
        points.setdefault(("channel", way.end), set()).update((2 * way.gutter, reader))
    return {where: (min(found), max(found)) for where, found in points.items()}
