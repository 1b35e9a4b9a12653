"""What a person sees of a run: a live line in a terminal, plain lines elsewhere, and a summary at the end."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from genrl_graph.runners.stages import Peers, Stages, StageTotal, speeds
from genrl_graph.schedule import Schedule, Step

Digests = Mapping[tuple[str, str], str]
PLAIN_EVERY_S = 1.0


class Terminal:
    """Shows the rounds of a run: a bar where there is a terminal, at most one line a second elsewhere.

    `played` rounds were played before.
    """

    def __init__(self, schedule: Schedule, *, rounds: int, console: Console, played: int = 0) -> None:
        self._stages = Stages(schedule)
        self._rounds = rounds
        self._console = console
        self._totals = [StageTotal(stage) for stage in range(schedule.stages)]
        self._played = 0
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
        self._task = self._bar.add_task("round", total=rounds, completed=played, doing="")
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
        for total, line in zip(self._totals, lines, strict=True):
            total.add(line)
        self._played += 1
        parts = [str(line) for line in lines if line.measured]
        self._last = "; ".join([*parts, *(f"{speed} {unit}/s" for unit, speed in speeds(lines).items())])
        if self._console.is_terminal:
            self._bar.update(self._task, advance=1, doing=self._last)
            return
        now, left = time.monotonic(), self._rounds - round - 1
        if now - self._shown >= PLAIN_EVERY_S or not left:
            self._shown = now
            eta = (now - self._started) / self._played * left
            self._console.print(
                f"round {round + 1}/{self._rounds}  {self._last}  {seconds:.1f} s, {eta:.0f} s left", soft_wrap=True
            )

    def left(self, round: int, later: int) -> None:
        """Say that a round was left because the swarm had gone on."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=later)
        self._console.print(f"round {round + 1}/{self._rounds}  left: the swarm is in round {later + 1}")

    def summary(self, *, before: Digests, after: Digests, store: Path) -> None:
        """The run per stage, the weights per peer, and where the rollouts are."""
        self._console.print(_stage_table(self._totals if self._played else []))
        for (peer, carry), digest in before.items():
            then = after.get((peer, carry), digest)
            change = f"{digest[:16]} -> {then[:16]}" + ("" if digest != then else " (unchanged)")
            self._console.print(f"{peer} {carry}: weights {change}")
        self._console.print(f"rollouts: {store}", soft_wrap=True, markup=False)


def _stage_table(stages: Sequence[StageTotal]) -> Table:
    units = list(dict.fromkeys(unit for stage in stages for unit in stage.made)) or ["tokens"]
    named = list(set[str]().union(*(stage.outcomes for stage in stages)))
    outcome = named[0] if len(named) == 1 else "outcome" if named else "reward"
    table = Table(box=SIMPLE_HEAD)
    for name in ("stage", f"first {outcome}", "last", "mean", "groups with variance", *(f"{u}/s" for u in units)):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in stages:
        speed = speeds([stage])
        table.add_row(
            str(stage.stage),
            *("-" if value is None else f"{value:.3f}" for value in (stage.first, stage.last, stage.mean)),
            f"{stage.varied} of {stage.groups}" if stage.groups else "-",
            *(speed.get(unit, "-") for unit in units),
        )
    return table
