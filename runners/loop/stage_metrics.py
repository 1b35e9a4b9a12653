"""Stage metrics: aggregate the metrics of a round's nodes by stage."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from typing_extensions import TypeVar

from genrl_graph.contract.node import Advantage, Eval, Generator, Node, Reward
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.display import DisplayMetrics
from genrl_graph.edge_types.frame import Frame

Peers = Mapping[str, Mapping[str, float]]
"""Metrics by peer and name."""


@dataclass(frozen=True, slots=True)
class StageLine:
    """The metrics of one stage in one round, over all peers; `reward` is None where the stage has no reward.

    `varied` of the `groups` have reward variance. `results` are the metrics that the row types of its generators show
    (`Frame.shown`), such as the return of a game. `produced` maps a unit, tokens or steps, to the number that the
    generators produced and the seconds that it took.
    """

    stage: int
    reward: float | None
    groups: int
    varied: int
    produced: Mapping[str, tuple[float, float]] = field(default_factory=dict)
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
        """Return whether the stage has a reward or results."""
        return self.reward is not None or bool(self.results)

    @property
    def outcome(self) -> tuple[str, float] | None:
        """Name and value of the stage's main metric: the reward, or else the first result."""
        if self.reward is not None:
            return "reward", self.reward
        return next(iter(self.results.items()), None)

    def metrics(self) -> dict[str, float]:
        """Return the mean reward, the share of zero-variance groups and the results, where the stage has them."""
        metrics = {} if self.reward is None else {f"stage{self.stage}/reward": self.reward}
        if self.groups:
            metrics[f"stage{self.stage}/zero_variance"] = 1.0 - self.varied / self.groups
        return metrics | {f"stage{self.stage}/{name}": value for name, value in self.results.items()}


@dataclass(slots=True)
class StageTotal:
    """Running totals of one stage over the rounds so far; the rounds themselves are not stored.

    `first`, `last` and `mean` are of the outcomes.
    """

    stage: int
    groups: int = 0
    varied: int = 0
    produced: dict[str, tuple[float, float]] = field(default_factory=dict)
    outcomes: set[str] = field(default_factory=set)
    first: float | None = None
    last: float | None = None
    _sum: float = field(default=0.0, init=False)
    _count: int = field(default=0, init=False)

    def add(self, line: StageLine) -> None:
        """Add a round."""
        self.groups += line.groups
        self.varied += line.varied
        add_produced(self.produced, line.produced)
        if line.outcome is not None:
            name, self.last = line.outcome
            self.outcomes.add(name)
            self.first = self.last if self.first is None else self.first
            self._sum += self.last
            self._count += 1

    @property
    def mean(self) -> float | None:
        """The mean outcome over the rounds that have one."""
        return self._sum / self._count if self._count else None


def totals(schedule: Schedule) -> list[str]:
    """Return the rewards whose rows no other reward passes on: of rewards in a chain, the last, which has the total."""
    rewards = {name: node for name, node in schedule.nodes.items() if isinstance(node, Reward)}
    passed_on = {
        edge.origin
        for name, node in rewards.items()
        for edge in schedule.graph.nodes[name].edges()
        if edge.socket in _passed_on(node)
    }
    return [name for name in rewards if name not in passed_on]


def _passed_on(node: Node) -> set[str]:
    """Return the inputs whose rows a node gives again: those of the output's type variable; all, if it has none."""
    variables = {pattern.base for pattern in node.signature.outputs.values() if isinstance(pattern.base, TypeVar)}
    sockets = node.signature.inputs
    return {socket.name for socket in sockets if socket.pattern.base in variables or not variables}


def display_metrics(schedule: Schedule) -> dict[str, DisplayMetrics]:
    """Return the display metrics of each generator: those of its row type, or of the first output that has some."""
    display: dict[str, DisplayMetrics] = {}
    for ref, kind in schedule.types.items():
        name = ref.partition(".")[0]
        if isinstance(schedule.nodes.get(name), Generator) and issubclass(kind.base, Frame):
            known = display.get(name, DisplayMetrics())
            display[name] = known if known.line else kind.base.shown
    return display


class Stages:
    """Aggregates the metrics of a round by stage; with `evaluating` also those that only evaluations show."""

    def __init__(self, schedule: Schedule, *, evaluating: bool = False) -> None:
        stages = {step.node: step.stage for step in schedule.steps}

        def named(kind: type[Node], stage: int) -> list[str]:
            return [name for name, node in schedule.nodes.items() if isinstance(node, kind) and stages[name] == stage]

        self._shown, self._evaluating = display_metrics(schedule), evaluating
        self._nodes = [
            (
                [name for name in totals(schedule) if stages[name] == stage],
                named(Advantage, stage),
                named(Generator, stage),
                named(Eval, stage),
            )
            for stage in range(schedule.stages)
        ]

    def lines(self, peers: Peers) -> list[StageLine]:
        """Return one line per stage from the metrics of all peers."""
        lines = []
        for stage, (rewards, advantages, generators, evals) in enumerate(self._nodes):
            means = [value for name in rewards if (value := mean(peers, f"{name}/reward")) is not None]
            groups = sum(total(peers, f"{name}/groups") for name in advantages)
            varied = sum(total(peers, f"{name}/groups_with_variance") for name in advantages)
            reward = sum(means) / len(means) if means else None
            produced = self._produced(peers, generators)
            results = self._results(peers, generators) | self._measured(peers, evals)
            lines.append(StageLine(stage, reward, int(groups), int(varied), produced, results))
        return lines

    def _produced(self, peers: Peers, generators: Iterable[str]) -> dict[str, tuple[float, float]]:
        produced: dict[str, tuple[float, float]] = {}
        for node in generators:
            unit = self._shown[node].unit or "tokens"
            add_produced(produced, {unit: (total(peers, f"{node}/{unit}"), total(peers, f"time/{node}"))})
        return produced

    def _measured(self, peers: Peers, evals: Iterable[str]) -> dict[str, float]:
        """Return all metrics of the evals of a stage, means over the peers, with the names of the evals in front."""
        names = dict.fromkeys(name for metrics in peers.values() for name in metrics)
        own = [name for node in evals for name in names if name.startswith(f"{node}/")]
        return {name: value for name in own if (value := mean(peers, name)) is not None}

    def _results(self, peers: Peers, generators: Iterable[str]) -> dict[str, float]:
        """Return the display metrics of a stage's generators, means over the peers.

        Where several generators of the stage have some, their names stand in front.
        """
        results: dict[str, float] = {}
        displayed = [node for node in generators if self._shown[node].line]
        for node in displayed:
            names = dict.fromkeys(name for metrics in peers.values() for name in metrics if name.startswith(f"{node}/"))
            own = [name.removeprefix(f"{node}/") for name in names]
            for name in self._shown[node].chosen(own, evaluating=self._evaluating):
                value = mean(peers, f"{node}/{name}")
                if value is not None:
                    results[name if len(displayed) == 1 else f"{node}/{name}"] = value
        return results


def speeds(lines: Iterable[StageLine | StageTotal]) -> dict[str, str]:
    """Return units per second as text, such as tokens or steps, over several lines together."""
    produced: dict[str, tuple[float, float]] = {}
    for line in lines:
        add_produced(produced, line.produced)
    return {unit: f"{count / seconds:,.0f}" for unit, (count, seconds) in produced.items() if count and seconds}


def add_produced(total: dict[str, tuple[float, float]], produced: Mapping[str, tuple[float, float]]) -> None:
    """Add counts and seconds by unit to `total`, in place."""
    for unit, (count, seconds) in produced.items():
        before = total.get(unit, (0.0, 0.0))
        total[unit] = (before[0] + count, before[1] + seconds)


def mean(peers: Peers, name: str) -> float | None:
    """Return the mean of a metric over the peers that reported it, None where none did."""
    values = [metrics[name] for metrics in peers.values() if name in metrics]
    return sum(values) / len(values) if values else None


def total(peers: Peers, name: str) -> float:
    """Return the sum of a metric over the peers."""
    return sum(metrics.get(name, 0.0) for metrics in peers.values())
