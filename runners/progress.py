"""What a person sees of a run: a live line in a terminal, plain lines elsewhere, and a summary at the end."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from genrl_graph.node import Advantage, Generator, Node, Reward
from genrl_graph.runners.metrics import mean, total
from genrl_graph.schedule import Schedule, Step

Peers = Mapping[str, Mapping[str, float]]
Digests = Mapping[tuple[str, str], str]
PLAIN_EVERY_S = 1.0


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


class Stages:
    """Reads the numbers of each stage from a round's metrics."""

    def __init__(self, schedule: Schedule) -> None:
        stages = {step.node: step.stage for step in schedule.steps}

        def named(kind: type[Node], stage: int) -> list[str]:
            return [name for name, node in schedule.nodes.items() if isinstance(node, kind) and stages[name] == stage]

        chained = {
            edge.origin
            for name, node in schedule.nodes.items()
            if isinstance(node, Reward)
            for edge in schedule.graph.nodes[name].edges()
        }  # a reward that another one adds to is part of that one's total

        def totals(stage: int) -> list[str]:
            return [name for name in named(Reward, stage) if name not in chained]

        self._nodes = [
            (totals(stage), named(Advantage, stage), named(Generator, stage)) for stage in range(schedule.stages)
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


class Terminal:
    """Shows the rounds of a run: a bar where there is a terminal, at most one line a second elsewhere."""

    def __init__(self, schedule: Schedule, *, rounds: int, console: Console) -> None:
        self._stages = Stages(schedule)
        self._rounds = rounds
        self._console = console
        self._history: list[list[StageLine]] = []
        self._started = time.monotonic()
        self._shown = self._started - PLAIN_EVERY_S
        self._bar = Progress(
            TextColumn("round", table_column=Column(no_wrap=True, min_width=5)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(rounds)) + 1)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[doing]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("round", total=rounds, doing="")
        self._last = ""

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, step: Step, peer: str) -> None:
        """Say what runs now."""
        if self._console.is_terminal:
            self._bar.update(self._task, doing=f"[dim]{step} {peer}[/dim]  {self._last}")

    def round(self, round: int, peers: Peers, seconds: float) -> None:
        """Say what a round gave."""
        lines = self._stages.lines(peers)
        self._history.append(lines)
        speed = tokens_per_s(lines)
        parts = [str(line) for line in lines if line.reward is not None]
        self._last = "; ".join([*parts, f"{speed} tokens/s"] if speed else parts)
        if self._console.is_terminal:
            self._bar.update(self._task, advance=1, doing=self._last)
            return
        now, left = time.monotonic(), self._rounds - round - 1
        if now - self._shown >= PLAIN_EVERY_S or not left:
            self._shown = now
            eta = (now - self._started) / len(self._history) * left
            self._console.print(
                f"round {round + 1}/{self._rounds}  {self._last}  {seconds:.1f} s, {eta:.0f} s left", soft_wrap=True
            )

    def summary(self, *, before: Digests, after: Digests, store: Path) -> None:
        """The run per stage, the weights per peer, and where the rollouts are."""
        self._console.print(_stage_table(self._history))
        for (peer, carry), digest in before.items():
            then = after.get((peer, carry), digest)
            change = f"{digest[:16]} -> {then[:16]}" + ("" if digest != then else " (unchanged)")
            self._console.print(f"{peer} {carry}: weights {change}")
        self._console.print(f"rollouts: {store}", soft_wrap=True, markup=False)


def _stage_table(history: Sequence[Sequence[StageLine]]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in ("stage", "first reward", "last", "mean", "groups with variance", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for lines in zip(*history, strict=True):
        rewards = [line.reward for line in lines if line.reward is not None]
        groups, varied = sum(line.groups for line in lines), sum(line.varied for line in lines)
        table.add_row(
            str(lines[0].stage),
            f"{rewards[0]:.3f}" if rewards else "-",
            f"{rewards[-1]:.3f}" if rewards else "-",
            f"{sum(rewards) / len(rewards):.3f}" if rewards else "-",
            f"{varied} of {groups}" if groups else "-",
            tokens_per_s(lines) or "-",
        )
    return table
