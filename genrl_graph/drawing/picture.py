"""The content of a picture, the same for all formats: boxes, lines between them, steps; no geometry, no markup."""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from genrl_graph.contract.node import PHASES
from genrl_graph.dag.graph import Part
from genrl_graph.dag.infer import carried
from genrl_graph.dag.schedule import Schedule, Step
from genrl_graph.drawing.measured import Numbers, RunNumbers
from genrl_graph.messages import counted

Style = Literal["rows", "weights", "next"]


@dataclass(frozen=True, slots=True)
class LineEnd:
    """An end of a line: the box `reader` and its input `socket` (`socket.key` where an input takes several by name)."""

    reader: str
    socket: str


@dataclass(frozen=True, slots=True)
class Line:
    """One output and all its readers; its style says whether it carries rows, weights, or the next value of a carry.

    `wrong` are the readers for which `check` finds a problem with it.
    """

    ref: str
    origin: str
    label: str
    style: Style
    reads: tuple[LineEnd, ...]
    wrong: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Box:
    """A node, or a carry (without a stage). `steps` are its step numbers in the round: two for an exchange.

    `problems` are the numbers of its problems, from 1 on.
    """

    name: str
    type_name: str
    kind: str
    stage: int | None
    steps: tuple[int, ...]
    doc: str
    note: str
    params: Mapping[str, str]
    numbers: Numbers = field(default_factory=Numbers)
    problems: tuple[int, ...] = ()
    role: str = ""

    @property
    def is_exchange(self) -> bool:
        """True for an exchange, which opens at one step and closes at another."""
        return len(self.steps) == 2


@dataclass(frozen=True, slots=True)
class Look:
    """Options of a picture: a title, a legend, a transparent ground (SVG, PNG, PDF)."""

    title: bool = True
    legend: bool = True
    transparent: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A game as all formats draw it; `measured` is the title of the numbers in boxes, empty without numbers.

    `problems` are those that `check` finds, one line each.
    """

    name: str
    subtitle: str
    boxes: Mapping[str, Box]
    lines: tuple[Line, ...]
    steps: tuple[Step, ...]
    stages: int
    with_params: bool
    measured: str
    problems: tuple[str, ...] = ()
    look: Look = field(default_factory=Look)

    def kinds(self) -> list[str]:
        """List the kinds that occur, in the order of their first box."""
        return list(dict.fromkeys(box.kind for box in self.boxes.values()))

    def lanes(self) -> list[str]:
        """List the roles that boxes have, each a lane, after "" for those of every role; without roles, "" alone."""
        return list(dict.fromkeys(["", *(box.role for box in self.boxes.values())]))

    def inputs(self, name: str) -> Iterator[tuple[str, Line]]:
        """Yield each input of a box with the line that it reads."""
        for line in self.lines:
            yield from ((read.socket, line) for read in line.reads if read.reader == name)


def picture(
    schedule: Schedule, *, params: bool = False, run: RunNumbers | None = None, look: Look | None = None
) -> Picture:
    """Make the picture of a compiled graph, with params if asked, and with the numbers of a run if given."""
    graph = schedule.graph
    exchanges = sum(step.action == "open" for step in schedule.steps)
    counts = [
        counted(len(graph.nodes), "node"),
        counted(schedule.stages, "stage"),
        *([counted(exchanges, "exchange")] if exchanges else []),
        *([counted(graph.run.peers, "peer")] if graph.run.peers > 1 else []),
    ]
    measured = run.title if run is not None else ""
    boxes = {
        name: _box(schedule, part, run.nodes.get(name) if run is not None else None)
        for name, part in (*graph.carries.items(), *graph.nodes.items())
    }
    return Picture(
        name=graph.name,
        subtitle=" · ".join(counts),
        boxes=boxes,
        lines=tuple(_lines(schedule)),
        steps=schedule.steps,
        stages=schedule.stages,
        with_params=params,
        measured=measured,
        look=look or Look(),
    )


def _box(schedule: Schedule, part: Part, numbers: Numbers | None) -> Box:
    is_carry = part.name in schedule.graph.carries
    numbers_of = schedule.numbers()
    named = [str(step) for step in schedule.steps if step.node == part.name]
    steps = tuple(numbers_of[name] for name in named if name in numbers_of)
    note = ""
    if is_carry and part.next is None:
        note = "frozen"
    elif len(steps) == 2:
        note = f"opens at step {steps[0]}, closes at {steps[1]}"
    elif not is_carry and part.node.phases != PHASES:
        note = f"in {' and '.join(sorted(part.node.phases))} only"
    elif beside := next((step.beside for step in schedule.steps if step.node == part.name and step.beside), ""):
        note = f"runs beside {beside}"
    return Box(
        name=part.name,
        type_name=part.type_name,
        kind="carry" if is_carry else part.node.kind,
        stage=None if is_carry else next(step.stage for step in schedule.steps if step.node == part.name),
        steps=steps,
        doc=inspect.getdoc(part.cls) or "",
        note=note,
        params={name: param_text(value) for name, value in part.portable_params().items()},
        numbers=numbers or Numbers(),
        role=part.role,
    )


def param_text(value: object) -> str:
    """Return the value of a param on one line, as pictures show it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lines(schedule: Schedule) -> Iterator[Line]:
    graph = schedule.graph
    reads: dict[str, list[LineEnd]] = {}
    for edge in graph.edges():
        socket = edge.socket if edge.key is None else f"{edge.socket}.{edge.key}"
        reads.setdefault(edge.ref, []).append(LineEnd(edge.reader, socket))
    order = {name: at for at, name in enumerate((*graph.carries, *graph.nodes))}
    for ref in sorted(reads, key=lambda ref: order[ref.partition(".")[0]]):
        style: Style = "weights" if carried(schedule.types, ref) else "rows"
        yield Line(ref, ref.partition(".")[0], str(schedule.types[ref]), style, tuple(reads[ref]))
    for name, part in graph.carries.items():
        if part.next is not None:
            yield Line(part.next, part.next.partition(".")[0], "next round", "next", (LineEnd(name, "next"),))


def clipped(text: str, width: int) -> str:
    """Return the text in one line of at most `width` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
