"""Render a picture as terminal text: a row per step of the round, and a rail from each output to its last reader.

```
  1 ⊙ tasks   source.list      ● │
  2 ▶ answer  generate.answer  ○─○─●
```
`●` gives a value, `○` reads it. An exchange has two rows, open and close, joined by a rail of its own (`◇`).
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from genrl_graph.dag.schedule import Step
from genrl_graph.drawing.kinds import MISSING, WEIGHTS, WRONG, style_of
from genrl_graph.drawing.picture import Box, Picture, clipped

BESIDE = "∥"
"""Sign between a background step and the number of the step with which it starts."""

LEGEND = "● gives   ○ reads   │ rows   ┊ weights   ◇║ an exchange, open"
NAME, TYPE = 24, 24
"""Maximum widths of names and types, in characters."""


@dataclass(slots=True)
class _Row:
    """A row of the picture: text at the left, and the outputs that it gives and reads.

    `cells` are number, name, role, type and output types; `plain` is the text of a row without cells; `exchange` names
    the exchange that opens or closes here.
    """

    cells: tuple[str, ...] = ()
    box: Box | None = None
    plain: str = ""
    gives: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    exchange: str = ""


@dataclass(frozen=True, slots=True)
class _Rail:
    """A vertical line in a column, from row `first` to row `last`."""

    column: int
    first: int
    last: int
    bar: str


def text(picture: Picture, *, width: int = 80, colour: bool = False) -> str:
    """Render a picture in lines of at most `width` characters; if the rails do not fit, rows list what they read."""
    rows = list(_rows(picture))
    rails = _rails(picture, rows)
    columns = 2 * max((rail.column + 1 for rail in rails.values()), default=0)
    table = _Table(picture, rows, width - columns - 2)
    if not table.fits:
        rails, table = {}, _Table(picture, rows, width)
    lines = []
    if picture.look.title:
        lines += [clipped(text, width) for text in (f"{picture.name} · {picture.subtitle}", picture.measured) if text]
        lines.append("")
    for at, row in enumerate(rows):
        tail = _rail_marks(row, at, rails, colour) if rails else ""
        words = "" if rails or not row.reads else f"reads {', '.join(row.reads)}"
        for number, left in enumerate(table.lines(row, words, colour)):
            end = tail if number == 0 else _rails_below(at, rails, colour)
            lines.append(f"{left}  {end}".rstrip())
    if picture.look.legend:
        lines += ["", *_legend(picture, width, bool(rails))]
    for number, problem in enumerate(picture.problems, start=1):
        wrapped = textwrap.wrap(f"{number}. {problem}", width, subsequent_indent="   ", break_on_hyphens=False)
        lines += [""] if number == 1 else []
        lines += [_colour(line, WRONG) if colour else line for line in wrapped]
    return "\n".join(lines) + "\n"


def _rows(picture: Picture) -> Iterator[_Row]:
    carries = [box for box in picture.boxes.values() if box.stage is None]
    if carries:
        yield _Row(plain="carried from round to round")
    for box in carries:
        cells = ("", f"{box.name}{_problem_mark(box)}", "", box.type_name, _output_types(picture, box.name))
        yield _Row(cells, box, gives=_outputs(picture, box.name))
    stage, places = -1, {str(step): _number(picture, step) for step in picture.steps}
    for step in picture.steps:
        box, number = picture.boxes[step.node], places[str(step)]
        if step.stage != stage:
            stage = step.stage
            yield _Row(plain=f"stage {stage}")
        name = f"{step} {BESIDE}{places[step.beside]}" if step.beside else f"{step}{_problem_mark(box)}"
        row = _Row((number, name, box.role, box.type_name, _output_types(picture, box.name)), box)
        if step.action == "open":
            row = _Row((number, f"open {box.name}", "", box.type_name, ""), box, exchange=box.name)
        elif step.action == "close":
            row = _Row((number, f"close {box.name}", "", "", _output_types(picture, box.name)), exchange=box.name)
        row.reads = [line.ref for _, line in picture.inputs(box.name)] if step.action != "close" else []
        row.gives = _outputs(picture, box.name) if step.action != "open" else []
        yield row
    nexts = [line for line in picture.lines if line.style == "next"]
    if nexts:
        yield _Row(plain="next round")
    for line in nexts:
        name = line.reads[0].reader
        yield _Row(("", name, "", f"is {line.ref}", ""), reads=[line.ref])


def _number(picture: Picture, step: Step) -> str:
    """Return the number of a step in the round, nothing for one of evaluations alone."""
    numbers = picture.boxes[step.node].steps
    return str(numbers[-1] if step.action == "close" else numbers[0]) if numbers else ""


def _problem_mark(box: Box) -> str:
    return f" ✗{','.join(map(str, box.problems))}" if box.problems else ""


def _outputs(picture: Picture, name: str) -> list[str]:
    return list(dict.fromkeys(line.ref for line in picture.lines if line.origin == name))


def _output_types(picture: Picture, name: str) -> str:
    labels = [line.label for line in picture.lines if line.origin == name and line.style != "next"]
    return ", ".join(dict.fromkeys(labels))


def _rails(picture: Picture, rows: list[_Row]) -> dict[str, _Rail]:
    """Return the rail of every output, by reference, and of every exchange between its rows (`open <name>`)."""
    weights = {line.ref for line in picture.lines if line.style != "rows"}
    spans: list[tuple[int, int, str, str]] = []
    for ref in dict.fromkeys(line.ref for line in picture.lines):
        first = next(at for at, row in enumerate(rows) if ref in row.gives)
        last = max((at for at, row in enumerate(rows) if ref in row.reads), default=first)
        spans.append((first, last, ref, "┊" if ref in weights else "│"))
    for box in picture.boxes.values():
        ends = [at for at, row in enumerate(rows) if row.exchange == box.name]
        if ends:
            spans.append((ends[0], ends[-1], f"open {box.name}", "║"))
    rails: dict[str, _Rail] = {}
    busy: list[int] = []  # by column: the row until which it is taken
    for first, last, name, bar in sorted(spans):
        column = next((at for at, until in enumerate(busy) if until < first), len(busy))
        busy[column:] = [last, *busy[column + 1 :]]
        rails[name] = _Rail(column, first, last, bar)
    return rails


def _rail_marks(row: _Row, at: int, rails: dict[str, _Rail], colour: bool) -> str:
    """Return the rails at a row; those that it gives or reads are joined by a line from the left."""
    marks = {rails[ref].column: "○" for ref in row.reads}
    marks |= {rails[f"open {row.exchange}"].column: "◇"} if row.exchange else {}
    marks |= {rails[ref].column: "●" for ref in row.gives}
    end = max(marks, default=-1)
    bars = {rail.column: rail.bar for rail in rails.values() if rail.first < at < rail.last}
    tail = ""
    for column in range(1 + max([end, *bars])) if marks or bars else ():
        tail += marks.get(column) or _coloured_bar(bars.get(column, "─" if column < end else " "), colour)
        tail += "─" if column < end else " "
    return tail


def _rails_below(at: int, rails: dict[str, _Rail], colour: bool) -> str:
    """Return the rails beside the lines of details below a row."""
    bars = {rail.column: rail.bar for rail in rails.values() if rail.first <= at < rail.last}
    return " ".join(_coloured_bar(bars.get(column, " "), colour) for column in range(1 + max(bars, default=-1)))


def _coloured_bar(bar: str, colour: bool) -> str:
    return _colour(bar, WEIGHTS) if colour and bar == "┊" else bar


def _colour(shown: str, rgb: str) -> str:
    red, green, blue = (int(rgb[at : at + 2], 16) for at in (1, 3, 5))
    return f"\x1b[38;2;{red};{green};{blue}m{shown}\x1b[0m"


class _Table:
    """The texts at the left of the rails, in columns as wide as needed; columns that do not fit are dropped."""

    def __init__(self, picture: Picture, rows: list[_Row], width: int) -> None:
        self.picture = picture
        wanted = [max((len(row.cells[at]) for row in rows if row.cells), default=0) for at in range(5)]
        wanted[1], wanted[3] = min(wanted[1], NAME), min(wanted[3], TYPE)
        for dropped in ((), (4,), (4, 3)):
            self.widths = [0 if at in dropped else size for at, size in enumerate(wanted)]
            self.width = 2 + self.widths[0] + sum(size + 2 for size in self.widths[1:] if size)
            if self.width <= width:
                break
        self.fits = self.width <= width
        self.width = max(self.width, min(width, 44)) if self.fits else width

    def lines(self, row: _Row, words: str, colour: bool) -> Iterator[str]:
        """Yield the lines of a row: the row itself, then params, numbers and `words` below it."""
        if not row.cells:
            yield f"{clipped(row.plain, self.width):<{self.width}}"
            return
        step, *cells = row.cells
        style = style_of(row.box.kind if row.box is not None else "exchange" if row.exchange else "carry")
        left = f"{step:>{self.widths[0] + 1}} {style.sign} "
        for size, cell in zip(self.widths[1:], cells, strict=True):
            left += f"{clipped(cell, size):<{size}}  " if size else ""
        wrong = bool(row.box and (row.box.problems or row.box.kind == MISSING))
        left = f"{clipped(left, self.width) if len(left.rstrip()) > self.width else left:<{self.width}}"[: self.width]
        if colour:
            left = _colour(left, WRONG) if wrong else left.replace(style.sign, _colour(style.sign, style.line), 1)
        yield left
        for detail in [*self._details(row.box), *([words] if words else [])]:
            yield from self._wrapped(detail)

    def _details(self, box: Box | None) -> Iterator[str]:
        if box is None:
            return
        if self.picture.with_params:
            yield from (f"{name}: {value}" for name, value in box.params.items())
        if texts := box.numbers.texts():
            yield " · ".join(texts)

    def _wrapped(self, detail: str) -> Iterator[str]:
        """Yield a detail below a row, indented: a param in one line, a list of numbers in as many as needed."""
        indent = " " * (self.widths[0] + 4)
        room = self.width - len(indent)
        line = ""
        for part in detail.split(" · "):
            if line and len(line) + 3 + len(part) > room:
                yield f"{indent}{line:<{room}}"
                line = ""
            line = f"{line} · {part}" if line else clipped(part, room)
        yield f"{indent}{line:<{room}}"


def _legend(picture: Picture, width: int, with_rails: bool) -> list[str]:
    signs = [f"{style_of(kind).sign} {kind}" for kind in picture.kinds()]
    lines = [""]
    for sign in signs:
        if len(lines[-1]) + 3 + len(sign) > width:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + sign
    beside = [f"{BESIDE}4 starts with step 4 and runs beside it"] if any(step.beside for step in picture.steps) else []
    return [*lines, *([LEGEND[:width]] if with_rails else []), *(line[:width] for line in beside)]
