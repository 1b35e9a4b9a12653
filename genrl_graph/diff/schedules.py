"""Compare two schedules: stages, policy versions read, step order, background steps and open exchanges."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from genrl_graph.contract.policy import Policy
from genrl_graph.dag.infer import carried
from genrl_graph.dag.schedule import Schedule, Step
from genrl_graph.diff.params import Pair
from genrl_graph.diff.parts import before, moved


@dataclass(frozen=True, slots=True)
class Version:
    """A carried value at one point of a round: its carry, and the updates and forks applied so far."""

    carry: str
    through: tuple[str, ...]
    stage: int | None  # of the last update or fork; None at the round's start


@dataclass(frozen=True, slots=True)
class ReadChange:
    """An input that reads another version. `several`: the text must name the carry and the input."""

    node: str
    input: str
    version: Pair[Version]
    weights: bool
    several: bool

    def __str__(self) -> str:
        noun = "weights" if self.weights else "value"
        old, new = self._since(self.version.old), self._since(self.version.new)
        place = f" as {self.input}" if self.several else ""
        return f"{self.node} now reads{place} the {noun} {new}, no longer {'those' if self.weights else 'that'} {old}"

    def _since(self, version: Version) -> str:
        of = f"of {version.carry} " if self.several else ""
        if version.stage is None:
            return f"{of}at the round's start" if of else "of the round's start"
        return f"{of}after stage {version.stage} ({', '.join(version.through)})"


@dataclass(frozen=True, slots=True)
class StageChange:
    """A node that belongs to another stage."""

    node: str
    stage: Pair[int]

    def __str__(self) -> str:
        return f"{self.node} is now in stage {self.stage.new}, no longer in stage {self.stage.old}"


@dataclass(frozen=True, slots=True)
class StepMove:
    """A step (`node`, `open node`, `close node`) at another place: its number, and the step that precedes it."""

    step: str
    number: Pair[int]
    after: Pair[str | None]

    def __str__(self) -> str:
        old, new = (f"after {name}" if name else "the first" for name in (self.after.old, self.after.new))
        return f"{self.step} is now step {self.number.new}, {new}; it was step {self.number.old}, {old}"


@dataclass(frozen=True, slots=True)
class ExchangeWaitChange:
    """Steps that now run while an exchange is open, and steps that no longer do."""

    exchange: str
    now: tuple[str, ...]
    no_longer: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return one line for the steps that now run then, and one for those that no longer do."""
        changes = (("now", self.now), ("no longer", self.no_longer))
        return [
            f"{', '.join(steps)} {when} run{'s' * (len(steps) == 1)} while {self.exchange} is open"
            for when, steps in changes
            if steps
        ]


@dataclass(frozen=True, slots=True)
class BesideChange:
    """A step that starts beside another step than before; "" stands for its own place in the order."""

    step: str
    beside: Pair[str]

    def __str__(self) -> str:
        old, new = (f"beside {other}" if other else "at its own place" for other in (self.beside.old, self.beside.new))
        return f"{self.step} now runs {new}, no longer {old}"


@dataclass(frozen=True, slots=True)
class ScheduleChange:
    """Changes between two schedules, in the stages, steps and inputs that both have."""

    stages: Pair[int]
    stage: tuple[StageChange, ...]
    reads: tuple[ReadChange, ...]
    moves: tuple[StepMove, ...]
    beside: tuple[BesideChange, ...]
    waits: tuple[ExchangeWaitChange, ...]

    def lines(self) -> list[str]:
        """Return one line per change."""
        old, new = self.stages.old, self.stages.new
        count = [f"a round has {new} stage{'s' * (new != 1)}, no longer {old}"] if old != new else []
        waits = [line for wait in self.waits for line in wait.lines()]
        return [*count, *map(str, (*self.stage, *self.reads, *self.moves, *self.beside)), *waits]


def schedule_changes(a: Schedule, b: Schedule, renamed: Mapping[str, str]) -> ScheduleChange:
    """Return the changes from schedule `a` to `b`; `renamed` maps old node names to new ones."""
    old, new = [_step(step, renamed) for step in a.steps], [_step(step, {}) for step in b.steps]
    moves = (
        StepMove(step, Pair(old.index(step) + 1, new.index(step) + 1), Pair(before(old, step), before(new, step)))
        for step in moved(old, new)
    )
    return ScheduleChange(
        Pair(a.stages, b.stages),
        tuple(_stage_changes(a, b, renamed)),
        tuple(_read_changes(a, b, renamed)),
        tuple(moves),
        tuple(_beside_changes(a, b, renamed)),
        tuple(_waits(old, new)),
    )


def _step(step: Step, renamed: Mapping[str, str]) -> str:
    return _named(str(step), renamed)


def _named(step: str, renamed: Mapping[str, str]) -> str:
    """Return a step (`node`, `open node`, `close node`) with the new name of its node."""
    action, _, name = step.rpartition(" ")
    return f"{action} {renamed.get(name, name)}".strip()


def _beside_changes(a: Schedule, b: Schedule, renamed: Mapping[str, str]) -> Iterator[BesideChange]:
    old = {_step(step, renamed): _named(step.beside, renamed) for step in a.steps}
    for step in b.steps:
        if old.get(str(step), step.beside) != step.beside:
            yield BesideChange(str(step), Pair(old[str(step)], step.beside))


def _stage_changes(a: Schedule, b: Schedule, renamed: Mapping[str, str]) -> Iterator[StageChange]:
    old = {renamed.get(step.node, step.node): step.stage for step in a.steps}
    for name, stage in {step.node: step.stage for step in b.steps}.items():
        if old.get(name, stage) != stage:
            yield StageChange(name, Pair(old[name], stage))


def _read_changes(a: Schedule, b: Schedule, renamed: Mapping[str, str]) -> Iterator[ReadChange]:
    old, new = _reads(a, renamed), _reads(b, {})
    carries = {version.carry for version in (*old.values(), *new.values())}
    for (node, name), version in new.items():
        was = old.get((node, name), version)
        if was != version:
            inputs = [other for other in new if other[0] == node]
            ref = next(step.reads[name] for step in b.steps if step.node == node and name in step.reads)
            weights = issubclass(b.types[ref].base, Policy)
            yield ReadChange(node, name, Pair(was, version), weights, len(carries) > 1 or len(inputs) > 1)


def _reads(schedule: Schedule, renamed: Mapping[str, str]) -> dict[tuple[str, str], Version]:
    return {
        (renamed.get(step.node, step.node), name): _version(schedule, ref, renamed)
        for step in schedule.steps
        for name, ref in step.reads.items()
    }


def _version(schedule: Schedule, ref: str, renamed: Mapping[str, str]) -> Version:
    origin, _, field = ref.partition(".")
    if origin in schedule.graph.carries:
        return Version(renamed.get(origin, origin), (), None)
    part = schedule.graph.nodes[origin]
    socket = schedule.replaced(origin).get(field)
    taken = (e.ref for e in part.edges() if (carried(schedule.types, e.ref) if socket is None else e.socket == socket))
    earlier = _version(schedule, next(taken), renamed)
    return Version(earlier.carry, (*earlier.through, renamed.get(origin, origin)), schedule.nodes[origin].place.stage)


def _waits(old: list[str], new: list[str]) -> Iterator[ExchangeWaitChange]:
    common = set(old) & set(new)
    for name in (step.removeprefix("open ") for step in new if step.startswith("open ") and step in common):
        was, now = ([step for step in _while_open(steps, name) if step in common] for steps in (old, new))
        if set(was) != set(now):
            added, removed = (tuple(step for step in a if step not in b) for a, b in ((now, was), (was, now)))
            yield ExchangeWaitChange(name, added, removed)


def _while_open(steps: list[str], exchange: str) -> list[str]:
    return steps[steps.index(f"open {exchange}") + 1 : steps.index(f"close {exchange}")]
