"""Route lines between boxes: along channels between rows and gutters between columns, never through a box.

Every line is a tree: down from its box, along the channel below it, through gutters to the channels above its readers,
and down into them. Where several lines run in a channel or a gutter, each has its own track.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from genrl_graph.drawing.picture import Line, Picture
from genrl_graph.drawing.place import Cell, Grid

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LinePath:
    """The path of a line to one reader.

    It runs in the channel `start` below its box, in `gutter` (None where the channel suffices), and in the channel
    `end` above the reader, and enters the reader at `port`.
    """

    start: int
    gutter: int | None
    end: int
    reader: str
    port: int


@dataclass(frozen=True, slots=True)
class Route:
    """The paths of a line, the port by which it leaves its box, and its track in every channel and gutter."""

    line: Line
    port: int
    paths: tuple[LinePath, ...]
    tracks: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Routes:
    """All routes, and the number of tracks in every channel (`"channel", at`) and gutter (`"gutter", at`)."""

    routes: tuple[Route, ...]
    tracks: dict[tuple[str, int], int]


def route(picture: Picture, grid: Grid) -> Routes:
    """Route the lines of a picture. Channel `i` is above row `i`, gutter `i` to the left of column `i`."""
    ports = _sink_ports(picture, grid)
    routes = []
    leaving: dict[str, int] = {}
    for at, line in enumerate(picture.lines):
        origin = grid.cells[line.origin]
        paths = []
        for reader in dict.fromkeys(read.reader for read in line.reads):
            cell = grid.cells[reader]
            gutter = None if cell.row == origin.row + 1 else _gutter(line, origin, cell)
            paths.append(LinePath(origin.row + 1, gutter, cell.row, reader, ports[reader, at]))
        straight = any(_is_straight(origin, grid.cells[path.reader]) and path.port == 0 for path in paths)
        port = _source_port(leaving.get(line.origin, 0), straight, _has_box_below(grid, origin))
        leaving[line.origin] = leaving.get(line.origin, 0) + 1
        routes.append(Route(line, port, tuple(paths)))
    return Routes(tuple(routes), _assign_tracks(routes, grid))


def _gutter(line: Line, origin: Cell, reader: Cell) -> int:
    """Return the gutter on the side of the reader from which the line comes."""
    if line.style == "next" or reader.column >= origin.column:
        return reader.column
    return reader.column + 1


def _is_straight(origin: Cell, reader: Cell) -> bool:
    return reader == Cell(origin.column, origin.row + 1)


def _has_box_below(grid: Grid, cell: Cell) -> bool:
    return Cell(cell.column, cell.row + 1) in grid.cells.values()


def _source_port(earlier: int, straight: bool, crowded: bool) -> int:
    """Return the port of the next line out of a box, in quarter steps from its middle.

    Above a box, outgoing lines take odd offsets: the even ones are for lines into the box below.
    """
    if straight and not earlier:
        return 0
    return 4 * earlier + (1 if crowded else 0)


def _sink_ports(picture: Picture, grid: Grid) -> dict[tuple[str, int], int]:
    """Return the port of each (reader, line): lines from the left enter at the left, from above in the middle."""
    entering: dict[str, list[tuple[int, int]]] = {}
    for at, line in enumerate(picture.lines):
        origin = grid.cells[line.origin]
        for reader in dict.fromkeys(read.reader for read in line.reads):
            cell = grid.cells[reader]
            from_right = origin.column > cell.column and line.style != "next"
            side = 0 if _is_straight(origin, cell) else 1 if from_right else -1
            entering.setdefault(reader, []).append((side, at))
    ports = {}
    for reader, lines in entering.items():
        left = [at for side, at in lines if side < 0]
        middle = [at for side, at in lines if side == 0]
        right = [at for side, at in lines if side > 0]
        row = left + middle + right
        zero = len(left) if middle else (len(row) - 1) / 2
        for place, at in enumerate(row):
            ports[reader, at] = round(4 * (place - zero))
    return ports


def _assign_tracks(routes: Iterable[Route], grid: Grid) -> dict[tuple[str, int], int]:
    """Assign each line a track in its channels and gutters, so that no two overlap; return the track counts."""
    spans: dict[tuple[str, int], list[tuple[Span, int, Route]]] = {}
    for at, item in enumerate(routes):
        for where, span in _spans(item, grid).items():
            spans.setdefault(where, []).append((span, at, item))
    counts = {}
    for where, items in spans.items():
        ends: list[int] = []  # by track: the end of its last line
        for span, _, item in sorted(items, key=lambda entry: (entry[0][0], -entry[0][1], entry[1])):
            track = next((at for at, end in enumerate(ends) if end < span[0]), len(ends))
            ends[track:] = [span[1], *ends[track + 1 :]]
            item.tracks[where] = track
        counts[where] = len(ends)
    return counts


def _spans(item: Route, grid: Grid) -> dict[tuple[str, int], Span]:
    """Return the span of a line in every channel and gutter; in channels, columns are odd and gutters even numbers."""
    points: dict[tuple[str, int], set[int]] = {}
    origin = grid.cells[item.line.origin]
    for path in item.paths:
        reader = 2 * grid.cells[path.reader].column + 1
        source = 2 * origin.column + 1
        if path.gutter is None:
            if reader != source or path.port != item.port:
                points.setdefault(("channel", path.start), set()).update((source, reader))
            continue
        points.setdefault(("channel", path.start), set()).update((source, 2 * path.gutter))
        points.setdefault(("gutter", path.gutter), set()).update((path.start, path.end))
        points.setdefault(("channel", path.end), set()).update((2 * path.gutter, reader))
    return {where: (min(positions), max(positions)) for where, positions in points.items()}
