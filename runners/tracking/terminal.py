"""Terminal output of a run: a headline, a line per round, a progress bar, and a summary at the end."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from genrl_graph.contract.policy import Policy
from genrl_graph.dag.schedule import Schedule, Step
from genrl_graph.messages import counted, escaped
from genrl_graph.runners.loop.stage_metrics import Peers, StageLine, Stages, StageTotal, speeds

Digests = Mapping[tuple[str, str], str]
LINE_EVERY_S = 1.0


def headline(schedule: Schedule, *, rounds: int, peers: int, folder: Path) -> Text:
    """Return the first line of a run: graph, number of rounds, stages and peers, and the folder."""
    parts = (counted(rounds, "round"), counted(schedule.stages, "stage"), counted(peers, "peer"))
    return Text.assemble((schedule.graph.name, "bold"), f": {', '.join(parts)}, folder {folder}")


class _TimeLeft(ProgressColumn):
    """Progress column with the time left, estimated from the mean round: rich's own estimate assumes equal steps."""

    ends: float | None = None  # on the monotonic clock

    def render(self, task: Task) -> Text:
        """Return the time left, or nothing before the first round has ended."""
        remaining = None if self.ends is None else timedelta(seconds=max(0, int(self.ends - time.monotonic())))
        return Text("" if remaining is None else f"{remaining} left", style="progress.remaining")


class Terminal:
    """Shows the rounds of a run: at most one line a second, and on a terminal a bar below them.

    The bar shows rounds and, within a round, steps. The argument `played` is the number of rounds that a previous run
    played; the attribute counts those played since.
    """

    def __init__(self, schedule: Schedule, *, rounds: int, console: Console, played: int = 0) -> None:
        self._stages = Stages(schedule)
        self._policies = {name for name in schedule.graph.carries if issubclass(schedule.types[name].base, Policy)}
        self._places = {str(step): at for at, step in enumerate(schedule.steps)}
        self._rounds = rounds
        self._console = console
        self._totals = [StageTotal(stage) for stage in range(schedule.stages)]
        self._position = played  # rounds that were played or skipped
        self.played = 0
        self._any_round = False
        self._started = time.monotonic()
        self._last_line = self._started - LINE_EVERY_S
        self._time_left = _TimeLeft(table_column=Column(no_wrap=True, min_width=12))
        self._bar = Progress(
            TextColumn("round", table_column=Column(no_wrap=True, min_width=5)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(rounds)) + 1)),
            BarColumn(bar_width=20),
            self._time_left,
            TextColumn("{task.fields[doing]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=console,
            expand=True,
            transient=True,
            disable=not console.is_interactive,
        )
        self._task = self._bar.add_task("round", total=rounds, completed=played, doing="")

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, step: Step, peer: str, *, evaluating: bool = False) -> None:
        """Show the running step in the bar."""
        if not self._console.is_interactive:
            return
        within = 0.0 if evaluating else self._places[str(step)] / len(self._places)
        doing = f"[dim]{'evaluation: ' if evaluating else ''}{step} {peer}[/dim]"
        self._bar.update(self._task, completed=self._position + within, doing=doing)

    def restore(self, peers: Peers) -> list[StageLine]:
        """Add a round to the totals, from its metrics by peer."""
        lines = self._stages.lines(peers)
        for total, line in zip(self._totals, lines, strict=True):
            total.add(line)
        self._any_round = True
        return lines

    def round(self, round: int, peers: Peers, seconds: float, *, failed: str = "") -> None:
        """Print the results of a round and estimate the time left.

        Lines within a second of another are dropped, except those with rows that `failed`.
        """
        lines = self.restore(peers)
        self.played += 1
        now, remaining = time.monotonic(), self._rounds - round - 1
        eta = (now - self._started) / self.played * remaining
        self._time_left.ends = now + eta
        self._go_to(round + 1)
        if now - self._last_line < LINE_EVERY_S and remaining and not failed:
            return
        self._last_line = now
        if self._console.is_interactive:
            text = f"{'; '.join(filter(None, [brief(lines), failed]))}  {seconds:.1f} s"
        else:
            parts = [str(line) for line in lines if line.measured]
            speed = [f"{speed} {unit}/s" for unit, speed in speeds(lines).items()]
            text = f"{'; '.join(filter(None, [*parts, failed, *speed]))}  {seconds:.1f} s, {eta:.0f} s left"
        self._console.print(f"round {round + 1}/{self._rounds}  {escaped(text)}", soft_wrap=True, markup=False)

    def skipped(self, round: int, later: int) -> None:
        """Print that a round was skipped because the swarm is in a later one."""
        self._go_to(later)
        self._console.print(f"round {round + 1}/{self._rounds}  left: the swarm is in round {later + 1}")

    def unplayed(self, rounds: int) -> None:
        """Print how many rounds were left out, if any."""
        if rounds:
            what = f"{rounds} of {counted(self._rounds, 'round')} were not played: the swarm was ahead"
            self._console.print(f"\n{what}", style="bold", soft_wrap=True)

    def _go_to(self, round: int) -> None:
        self._position = round
        if self._console.is_interactive:
            self._bar.update(self._task, completed=round)

    def summary(
        self, *, before: Digests, after: Digests, store: Path, notes: Sequence[str] = (), then: Mapping[str, str]
    ) -> None:
        """Print totals per stage, digests of the carries per peer, the store, `notes`, and the commands of `then`.

        The totals cover the whole run, rounds that a previous run played included.
        """
        self._console.print("", _stage_table(self._totals if self._any_round else []), "", sep="\n")
        for (peer, carry), digest in before.items():
            now = after.get((peer, carry), digest)
            change = f"{digest[:16]} -> {now[:16]}" + ("" if digest != now else " (unchanged)")
            what = "weights" if carry in self._policies else "state"
            self._console.print(f"{peer} {carry}: {what} {change}", soft_wrap=True, markup=False)
        self._console.print(f"rollouts: {store}", soft_wrap=True, markup=False)
        for note in notes:
            self._console.print(escaped(note), soft_wrap=True, markup=False)
        self._console.print("\nwhat to look at next:")
        for what, command in then.items():
            self._console.print(Text.assemble((f"{what:<8}  ", "dim"), command), soft_wrap=True)


def brief(lines: Sequence[StageLine]) -> str:
    """Return the stages of a round as short text; where stages have rewards only, these in stage order."""
    measured = [line for line in lines if line.measured]
    rewards = [f"{line.reward:.3f}" for line in measured if line.reward is not None and not line.results]
    if len(measured) < 2 or len(rewards) < len(measured):
        return "; ".join(map(str, measured))
    varied, groups = sum(line.varied for line in lines), sum(line.groups for line in lines)
    return f"rewards {', '.join(rewards)}" + (f" ({varied}/{groups} groups vary)" if groups else "")


def _stage_table(stages: Sequence[StageTotal]) -> Table:
    units = list(dict.fromkeys(unit for stage in stages for unit in stage.produced)) or ["tokens"]
    names = list(set[str]().union(*(stage.outcomes for stage in stages)))
    outcome = names[0] if len(names) == 1 else "outcome" if names else "reward"
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("stage", f"first {outcome}", "last", "mean", "groups vary", *(f"{u}/s" for u in units)):
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
