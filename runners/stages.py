"""The numbers of each stage of a round, read from the metrics of its nodes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from genrl_graph.node import Advantage, Generator, Node, Reward
from genrl_graph.schedule import Schedule

Peers = Mapping[str, Mapping[str, float]]
"""Metrics by peer and name."""


@dataclass(frozen=True, slots=True)
class StageLine:
    """One stage of one round, over all peers; None where the graph measures no such thing there."""

    stage: int
    reward: float | None
    groups: int
    varied: int
    tokens: float
    seconds: float

    def __str__(self) -> str:
        reward = "-" if self.reward is None else f"{self.reward:.3f}"
        varied = f" ({self.varied}/{self.groups} groups vary)" if self.groups else ""
        return f"stage {self.stage} reward {reward}{varied}"

    def metrics(self) -> dict[str, float]:
        """Mean reward, and share of the groups without variance, where the stage has them."""
        found = {} if self.reward is None else {f"stage{self.stage}/reward": self.reward}
        if self.groups:
            found[f"stage{self.stage}/zero_variance"] = 1.0 - self.varied / self.groups
        return found


def totals(schedule: Schedule) -> list[str]:
    """The rewards that are part of no other one's total: a reward that another reward adds to is."""
    rewards = [name for name, node in schedule.nodes.items() if isinstance(node, Reward)]
    parts = {edge.origin for name in rewards for edge in schedule.graph.nodes[name].edges()}
    return [name for name in rewards if name not in parts]


class Stages:
    """Reads the numbers of each stage from a round's metrics."""

    def __init__(self, schedule: Schedule) -> None:
        stages = {step.node: step.stage for step in schedule.steps}

        def named(kind: type[Node], stage: int) -> list[str]:
            return [name for name, node in schedule.nodes.items() if isinstance(node, kind) and stages[name] == stage]

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
            tokens = sum(total(peers, f"{name}/tokens") for name in generators)
            seconds = sum(total(peers, f"time/{name}") for name in generators)
            groups = sum(total(peers, f"{name}/groups") for name in advantages)
            varied = sum(total(peers, f"{name}/groups_with_variance") for name in advantages)
            reward = sum(means) / len(means) if means else None
            lines.append(StageLine(stage, reward, int(groups), int(varied), tokens, seconds))
        return lines


def tokens_per_s(lines: Iterable[StageLine]) -> str:
    """Tokens over the seconds that they took, of several lines together; "" where nothing was generated."""
    lines = list(lines)
    tokens, seconds = sum(line.tokens for line in lines), sum(line.seconds for line in lines)
    return f"{tokens / seconds:,.0f}" if tokens and seconds else ""


def mean(peers: Peers, name: str) -> float | None:
    """The mean of a metric over the peers that reported it."""
    values = [metrics[name] for metrics in peers.values() if name in metrics]
    return sum(values) / len(values) if values else None


def total(peers: Peers, name: str) -> float:
    """The sum of a metric over the peers."""
    return sum(metrics.get(name, 0.0) for metrics in peers.values())
