"""The numbers of each stage of a round, read from the metrics of its nodes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from genrl_graph.contract.node import Advantage, Generator, Node, Reward
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.display import DisplayMetrics
from genrl_graph.edge_types.frame import Frame

Peers = Mapping[str, Mapping[str, float]]
"""Metrics by peer and name."""


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage of one round, over all peers; None where the graph measures no such thing there.

    `results` are the metrics that the types of its generators show (`Frame.shown`), such as the return of a game;
    `made` has by unit, tokens or steps, how many the generators made and the seconds that it took.
    """

    stage: int
    reward: float | None
    groups: int
    varied: int
    made: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    results: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{name} {value:.4g}" for name, value in self.results.items()]
        if self.reward is not None or not parts:
            reward = "-" if self.reward is None else f"{self.reward:.3f}"
            varied = f" ({self.varied}/{self.groups} groups vary)" if self.groups else ""
            parts.insert(0, f"reward {reward}{varied}")
        return f"stage {self.stage} {', '.join(parts)}"

    @property
    def measured(self) -> bool:
        """Whether there is anything to say of it."""
        return self.reward is not None or bool(self.results)

    @property
    def outcome(self) -> tuple[str, float] | None:
        """What tells best how well it went: the reward, or the first of the results."""
        if self.reward is not None:
            return "reward", self.reward
        return next(iter(self.results.items()), None)

    def metrics(self) -> dict[str, float]:
        """Mean reward, and share of the groups without variance, where the stage has them; the results."""
        found = {} if self.reward is None else {f"stage{self.stage}/reward": self.reward}
        if self.groups:
            found[f"stage{self.stage}/zero_variance"] = 1.0 - self.varied / self.groups
        return found | {f"stage{self.stage}/{name}": value for name, value in self.results.items()}


@dataclass(slots=True)
class StageTotal:
    """One stage of all rounds so far, which are added up and not kept: a run may have any number of them."""

    stage: int
    groups: int = 0
    varied: int = 0
    made: dict[str, tuple[float, float]] = field(default_factory=dict)
    outcomes: set[str] = field(default_factory=set)
    first: float | None = None
    last: float | None = None
    _sum: float = field(default=0.0, init=False)
    _count: int = field(default=0, init=False)

    def add(self, line: StageLine) -> None:
        """Add one more round."""
        self.groups += line.groups
        self.varied += line.varied
        add_made(self.made, line.made)
        if line.outcome is not None:
            name, self.last = line.outcome
            self.outcomes.add(name)
            self.first = self.last if self.first is None else self.first
            self._sum += self.last
            self._count += 1

    @property
    def mean(self) -> float | None:
        """The mean outcome of the rounds that had one."""
        return self._sum / self._count if self._count else None


def totals(schedule: Schedule) -> list[str]:
    """The rewards that are part of no other one's total: a reward that another reward adds to is."""
    rewards = [name for name, node in schedule.nodes.items() if isinstance(node, Reward)]
    parts = {edge.origin for name in rewards for edge in schedule.graph.nodes[name].edges()}
    return [name for name in rewards if name not in parts]


def shown_by(schedule: Schedule) -> dict[str, DisplayMetrics]:
    """What each generator shows: that of the type of its rows, of several outputs the first that shows something."""
    found: dict[str, DisplayMetrics] = {}
    for ref, kind in schedule.types.items():
        name = ref.partition(".")[0]
        if isinstance(schedule.nodes.get(name), Generator) and issubclass(kind.base, Frame):
            known = found.get(name, DisplayMetrics())
            found[name] = known if known.line else kind.base.shown
    return found


class Stages:
    """Reads the numbers of each stage from a round's metrics, or those of an evaluation, which show more."""

    def __init__(self, schedule: Schedule, *, evaluating: bool = False) -> None:
        stages = {step.node: step.stage for step in schedule.steps}

        def named(kind: type[Node], stage: int) -> list[str]:
            return [name for name, node in schedule.nodes.items() if isinstance(node, kind) and stages[name] == stage]

        self._shown, self._evaluating = shown_by(schedule), evaluating
        self._nodes = [
            (
                [name for name in totals(schedule) if stages[name] == stage],
                named(Advantage, stage),
                named(Generator, stage),
            )
            for stage in range(schedule.stages)
        ]

    def lines(self, peers: Peers) -> list[StageLine]:
        """One line a stage."""
        lines = []
        for stage, (rewards, advantages, generators) in enumerate(self._nodes):
            means = [value for name in rewards if (value := mean(peers, f"{name}/reward")) is not None]
            groups = sum(total(peers, f"{name}/groups") for name in advantages)
            varied = sum(total(peers, f"{name}/groups_with_variance") for name in advantages)
            reward = sum(means) / len(means) if means else None
            made, results = self._made(peers, generators), self._results(peers, generators)
            lines.append(StageLine(stage, reward, int(groups), int(varied), made, results))
        return lines

    def _made(self, peers: Peers, generators: Iterable[str]) -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        for node in generators:
            unit = self._shown[node].unit or "tokens"
            add_made(found, {unit: (total(peers, f"{node}/{unit}"), total(peers, f"time/{node}"))})
        return found

    def _results(self, peers: Peers, generators: Iterable[str]) -> dict[str, float]:
        """What the generators of a stage show, means over the peers; of several generators under their names."""
        found: dict[str, float] = {}
        talking = [node for node in generators if self._shown[node].line]
        for node in talking:
            names = dict.fromkeys(name for metrics in peers.values() for name in metrics if name.startswith(f"{node}/"))
            own = [name.removeprefix(f"{node}/") for name in names]
            for name in self._shown[node].chosen(own, evaluating=self._evaluating):
                value = mean(peers, f"{node}/{name}")
                if value is not None:
                    found[name if len(talking) == 1 else f"{node}/{name}"] = value
        return found


def speeds(lines: Iterable[StageLine | StageTotal]) -> dict[str, str]:
    """What was made over the seconds that it took, by unit, of several lines together."""
    found: dict[str, tuple[float, float]] = {}
    for line in lines:
        add_made(found, line.made)
    return {unit: f"{made / seconds:,.0f}" for unit, (made, seconds) in found.items() if made and seconds}


def add_made(found: dict[str, tuple[float, float]], made: Mapping[str, tuple[float, float]]) -> None:
    """Add what was made, and the seconds that it took, by unit."""
    for unit, (count, seconds) in made.items():
        before = found.get(unit, (0.0, 0.0))
        found[unit] = (before[0] + count, before[1] + seconds)


def mean(peers: Peers, name: str) -> float | None:
    """The mean of a metric over the peers that reported it."""
    values = [metrics[name] for metrics in peers.values() if name in metrics]
    return sum(values) / len(values) if values else None


def total(peers: Peers, name: str) -> float:
    """The sum of a metric over the peers."""
    return sum(metrics.get(name, 0.0) for metrics in peers.values())
