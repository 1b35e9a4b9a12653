"""Place boxes in a grid, in which each stage is a group of columns and rows run downwards.

Carries have a column of their own at the left, sources are in the top row, and a box is below the boxes of its stage
that it reads: directly below, where that cell is free. Exchanges are placed last in their row, towards the next stage.
Stages that would be beside more than `COLUMNS` columns continue in a band of rows below, as the lines of a text do.
In a band, the boxes of each role have rows of their own, a lane, below those of no role.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from genrl_graph.drawing.picture import Picture

COLUMNS = 12
"""Most columns of stages beside each other, but for a single stage that is wider."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the grid."""

    column: int
    row: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The cell of every box; `spans` are the first and last column of each stage, `bands` the first row of each band.

    `band_of` is the place of each stage in `bands`, `lanes` are the first row of each role's boxes, by band and role.
    """

    cells: dict[str, Cell]
    spans: dict[int, tuple[int, int]]
    columns: int
    rows: int
    bands: tuple[int, ...]
    band_of: dict[int, int]
    lanes: dict[int, dict[str, int]]


def place(picture: Picture) -> Grid:
    """Place the boxes of a picture in a grid."""
    carries = [name for name, box in picture.boxes.items() if box.stage is None]
    cells = {name: Cell(0, at) for at, name in enumerate(carries)}
    first = 1 if carries else 0
    column, columns, spans, bands = first, first, {}, [list[int]()]
    for stage in range(picture.stages):
        width = _width(_stage(picture, stage, is_first=len(bands) == 1))
        if first < column and column + width > first + COLUMNS:
            bands.append([])
            column, width = first, _width(_stage(picture, stage, is_first=False))
        bands[-1].append(stage)
        spans[stage] = (column, column + width - 1)
        column += width
        columns = max(columns, column)
    starts, lanes, row = list[int](), dict[int, dict[str, int]](), 0
    for band, stages in enumerate(bands):
        starts.append(row)
        lanes[band] = {}
        placed = {stage: _stage(picture, stage, is_first=band == 0) for stage in stages}
        for role in picture.lanes():
            height = max((_rows(placed[stage].get(role, {})) for stage in stages), default=0)
            if role and height:
                lanes[band][role] = row
            for stage in stages:
                inside = placed[stage].get(role, {})
                cells |= {name: Cell(spans[stage][0] + cell.column, row + cell.row) for name, cell in inside.items()}
            row += height
        row = max(row, _rows(cells))
    band_of = {stage: band for band, stages in enumerate(bands) for stage in stages}
    return Grid(cells, spans, columns, max(_rows(cells), 1), tuple(starts), band_of, lanes)


def _stage(picture: Picture, stage: int, *, is_first: bool) -> dict[str, dict[str, Cell]]:
    """Place the boxes of one stage, those of each role from row 0 and column 0 on; sources are on top in the first."""
    placed = {}
    for role in picture.lanes():
        names = [name for name, box in picture.boxes.items() if box.stage == stage and box.role == role]
        has_sources = is_first and not role and any(box.kind == "source" for box in picture.boxes.values())
        placed[role] = _spread(picture, names, _ranks(picture, names, has_sources))
    return placed


def _width(lanes: dict[str, dict[str, Cell]]) -> int:
    return 1 + max((cell.column for cells in lanes.values() for cell in cells.values()), default=0)


def _rows(cells: dict[str, Cell]) -> int:
    return 1 + max((cell.row for cell in cells.values()), default=-1)


def _origins(picture: Picture) -> dict[str, list[str]]:
    """Return the boxes that each box reads, in order; without the next values of carries."""
    origins: dict[str, list[str]] = {name: [] for name in picture.boxes}
    for line in picture.lines:
        if line.style != "next":
            for read in line.reads:
                origins[read.reader].append(line.origin)
    return origins


def _ranks(picture: Picture, names: list[str], has_sources: bool) -> dict[str, int]:
    """Return the rank of each box of a stage: its row, if rows could be of any length."""
    origins = _origins(picture)
    ranks: dict[str, int] = {}
    for step in picture.steps:
        if step.action == "close" or step.node not in names:
            continue
        lowest = 1 if has_sources and picture.boxes[step.node].kind != "source" else 0
        ranks[step.node] = max((ranks[o] + 1 for o in origins[step.node] if o in ranks), default=lowest)
        ranks[step.node] = max(ranks[step.node], lowest)
    return ranks


def _spread(picture: Picture, names: list[str], ranks: dict[str, int]) -> dict[str, Cell]:
    """Place boxes of one stage and role, from column 0 on; a rank with too many boxes takes several rows."""
    origins = _origins(picture)
    widest = max(4, math.ceil(math.sqrt(1.5 * len(names))))
    cells: dict[str, Cell] = {}
    row = min(ranks.values(), default=0)
    for rank in sorted(set(ranks.values())):
        row = max(row, rank)
        for batch in _batches([name for name in names if ranks[name] == rank], widest):
            taken: set[int] = set()
            for name in sorted(batch, key=lambda name: picture.boxes[name].is_exchange):
                wanted = next((cells[o].column for o in origins[name] if o in cells), 0)
                free = (column for column in _nearest(wanted) if column not in taken)
                cells[name] = Cell(next(free), row)
                taken.add(cells[name].column)
            row += 1
    return cells


def _batches(names: list[str], size: int) -> Iterator[list[str]]:
    for at in range(0, len(names), size):
        yield names[at : at + size]


def _nearest(column: int) -> Iterator[int]:
    """Yield columns by their distance, at equal distance the right one first."""
    yield column
    for distance in range(1, 10_000):
        yield column + distance
        if column >= distance:
            yield column - distance
