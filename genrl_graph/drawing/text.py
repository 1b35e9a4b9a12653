"""A picture as text for a terminal: a row for each step of the round, and a rail for each output until it is last read.

```
  1 ⊙ tasks   source.list      ● │
  2 ▶ answer  generate.answer  ○─○─●
```
`●` gives a value, `○` reads it. An exchange has two rows, joined by a rail of its own (`◇`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from genrl_graph.drawing.kinds import WEIGHTS, look
from genrl_graph.drawing.picture import Box, Picture, clipped

BESIDE = "∥"
"""Stands between a background step and the number of the step that it starts with."""

LEGEND = "● gives   ○ reads   │ rows   ┊ weights   ◇║ an exchange, open"
NAME, TYPE = 24, 24
"""The most characters of a name and of a type."""


@dataclass(slots=True)
class _Row:
    """A line of the picture: text at the left, and what happens to rails here."""

    cells: tuple[str, ...] = ()
    box: Box | None = None
    plain: str = ""
    gives: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    meets: str = ""


@dataclass(frozen=True, slots=True)
class _Rail:
    """A column that is taken from one row to another."""

    column: int
    first: int
    last: int
    bar: str


def text(picture: Picture, *, width: int = 80, colour: bool = False) -> str:
    """The picture in lines of at most `width` characters; rails that do not fit are told in words."""
    rows = list(_rows(picture))
    rails = _rails(picture, rows)
    columns = 2 * max((rail.column + 1 for rail in rails.values()), default=0)
    table = _Table(picture, rows, width - columns - 2)
    if not table.fits:
        rails, table = {}, _Table(picture, rows, width)
    lines = [clipped(f"{picture.name} · {picture.subtitle}", width)]
    lines += [clipped(picture.measured, width)] if picture.measured else []
    lines.append("")
    for at, row in enumerate(rows):
        tail = _tail(row, at, rails, colour) if rails else ""
        words = "" if rails or not row.reads else f"reads {', '.join(row.reads)}"
        for number, left in enumerate(table.lines(row, words, colour)):
            end = tail if number == 0 else _passing(at, rails, colour)
            lines.append(f"{left}  {end}".rstrip())
    return "\n".join([*lines, "", *_legend(picture, width, bool(rails))]) + "\n"


def _rows(picture: Picture) -> Iterator[_Row]:
    carries = [box for box in picture.boxes.values() if box.stage is None]
    if carries:
        yield _Row(plain="carried from round to round")
    for box in carries:
        yield _Row(("", box.name, box.type_name, _given(picture, box.name)), box, gives=_outputs(picture, box.name))
    stage, places = -1, {str(step): at for at, step in enumerate(picture.steps, start=1)}
    for number, step in enumerate(picture.steps, start=1):
        box = picture.boxes[step.node]
        if step.stage != stage:
            stage = step.stage
            yield _Row(plain=f"stage {stage}")
        name = f"{step} {BESIDE}{places[step.beside]}" if step.beside else str(step)
        row = _Row((str(number), name, box.type_name, _given(picture, box.name)), box)
        if step.action == "open":
            row = _Row((str(number), f"open {box.name}", box.type_name, ""), box, meets=box.name)
        elif step.action == "close":
            row = _Row((str(number), f"close {box.name}", "", _given(picture, box.name)), meets=box.name)
        row.reads = [line.ref for _, line in picture.inputs(box.name)] if step.action != "close" else []
        row.gives = _outputs(picture, box.name) if step.action != "open" else []
        yield row
    nexts = [line for line in picture.lines if line.style == "next"]
    if nexts:
        yield _Row(plain="next round")
    for line in nexts:
        name = line.reads[0].reader
        yield _Row(("", name, f"is {line.ref}", ""), reads=[line.ref])


def _outputs(picture: Picture, name: str) -> list[str]:
    return list(dict.fromkeys(line.ref for line in picture.lines if line.origin == name))


def _given(picture: Picture, name: str) -> str:
    labels = [line.label for line in picture.lines if line.origin == name and line.style != "next"]
    return ", ".join(dict.fromkeys(labels))


def _rails(picture: Picture, rows: list[_Row]) -> dict[str, _Rail]:
    """The rail of every output that is read, and of every exchange between its two rows (`open <name>`)."""
    weights = {line.ref for line in picture.lines if line.style != "rows"}
    spans: list[tuple[int, int, str, str]] = []
    for ref in dict.fromkeys(line.ref for line in picture.lines):
        given = next(at for at, row in enumerate(rows) if ref in row.gives)
        read = max((at for at, row in enumerate(rows) if ref in row.reads), default=given)
        spans.append((given, read, ref, "┊" if ref in weights else "│"))
    for box in picture.boxes.values():
        ends = [at for at, row in enumerate(rows) if row.meets == box.name]
        if ends:
            spans.append((ends[0], ends[-1], f"open {box.name}", "║"))
    rails: dict[str, _Rail] = {}
    busy: list[int] = []  # of each column, the row until which it is taken
    for first, last, name, bar in sorted(spans):
        column = next((at for at, until in enumerate(busy) if until < first), len(busy))
        busy[column:] = [last, *busy[column + 1 :]]
        rails[name] = _Rail(column, first, last, bar)
    return rails


def _tail(row: _Row, at: int, rails: dict[str, _Rail], colour: bool) -> str:
    """The rails at a row: those that it gives or reads are joined by a line from the left."""
    marks = {rails[ref].column: "○" for ref in row.reads}
    marks |= {rails[f"open {row.meets}"].column: "◇"} if row.meets else {}
    marks |= {rails[ref].column: "●" for ref in row.gives}
    end = max(marks, default=-1)
    bars = {rail.column: rail.bar for rail in rails.values() if rail.first < at < rail.last}
    tail = ""
    for column in range(1 + max([end, *bars])) if marks or bars else ():
        tail += marks.get(column) or _inked(bars.get(column, "─" if column < end else " "), colour)
        tail += "─" if column < end else " "
    return tail


def _passing(at: int, rails: dict[str, _Rail], colour: bool) -> str:
    """The rails below a row, beside lines that say more about it."""
    bars = {rail.column: rail.bar for rail in rails.values() if rail.first <= at < rail.last}
    return " ".join(_inked(bars.get(column, " "), colour) for column in range(1 + max(bars, default=-1)))


def _inked(bar: str, colour: bool) -> str:
    return _colour(bar, WEIGHTS) if colour and bar == "┊" else bar


def _colour(shown: str, rgb: str) -> str:
    red, green, blue = (int(rgb[at : at + 2], 16) for at in (1, 3, 5))
    return f"\x1b[38;2;{red};{green};{blue}m{shown}\x1b[0m"


class _Table:
    """The texts at the left of the rails, in columns that are as wide as they need and as there is room."""

    def __init__(self, picture: Picture, rows: list[_Row], width: int) -> None:
        self.picture = picture
        wanted = [max((len(row.cells[at]) for row in rows if row.cells), default=0) for at in range(4)]
        wanted[1], wanted[2] = min(wanted[1], NAME), min(wanted[2], TYPE)
        for dropped in ((), (3,), (3, 2)):
            self.widths = [0 if at in dropped else size for at, size in enumerate(wanted)]
            self.width = 2 + self.widths[0] + sum(size + 2 for size in self.widths[1:] if size)
            if self.width <= width:
                break
        self.fits = self.width <= width
        self.width = max(self.width, min(width, 44)) if self.fits else width

    def lines(self, row: _Row, words: str, colour: bool) -> Iterator[str]:
        """The lines of a row: the row itself, then params, numbers and `words` below it."""
        if not row.cells:
            yield f"{clipped(row.plain, self.width):<{self.width}}"
            return
        step, *cells = row.cells
        how = look(row.box.kind if row.box is not None else "exchange" if row.meets else "carry")
        left = f"{step:>{self.widths[0] + 1}} {how.sign} "
        for size, cell in zip(self.widths[1:], cells, strict=True):
            left += f"{clipped(cell, size):<{size}}  " if size else ""
        left = f"{clipped(left, self.width) if len(left.rstrip()) > self.width else left:<{self.width}}"[: self.width]
        yield left.replace(how.sign, _colour(how.sign, how.line), 1) if colour else left
        for more in [*self._more(row.box), *([words] if words else [])]:
            yield from self._wrapped(more)

    def _more(self, box: Box | None) -> Iterator[str]:
        if box is None:
            return
        if self.picture.with_params:
            yield from (f"{name}: {value}" for name, value in box.params.items())
        if texts := box.numbers.texts():
            yield " · ".join(texts)

    def _wrapped(self, more: str) -> Iterator[str]:
        """The text below a row, in one line if it is a param and in as many as needed if it is a list."""
        indent = " " * (self.widths[0] + 4)
        room = self.width - len(indent)
        line = ""
        for part in more.split(" · "):
            if line and len(line) + 3 + len(part) > room:
                yield f"{indent}{line:<{room}}"
                line = ""
            line = f"{line} · {part}" if line else clipped(part, room)
        yield f"{indent}{line:<{room}}"


def _legend(picture: Picture, width: int, with_rails: bool) -> list[str]:
    signs = [f"{look(kind).sign} {kind}" for kind in picture.kinds()]
    lines = [""]
    for sign in signs:
        if len(lines[-1]) + 3 + len(sign) > width:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + sign
    beside = [f"{BESIDE}4 starts with step 4 and runs beside it"] if any(step.beside for step in picture.steps) else []
    return [*lines, *([LEGEND[:width]] if with_rails else []), *(line[:width] for line in beside)]
