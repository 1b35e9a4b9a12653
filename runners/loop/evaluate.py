"""Evaluations: play the game on held-out tasks without updates, and measure the share of solved tasks (pass@k)."""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Reward
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import named
from genrl_graph.records.write import EVAL_PREFIX
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.exchange import LoopbackSwarm
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.round import run_round
from genrl_graph.runners.loop.stage_metrics import Stages, totals

Metrics = dict[str, dict[str, float]]
"""Metrics by peer and name."""


def evaluation_schedule(schedule: Schedule, how: Evaluation) -> Schedule:
    """Return the schedule of evaluations, with every node in its evaluation form.

    Raises `ParamError` where a source holds out no tasks.
    """
    schedule, nodes = schedule.played_in("evaluations"), {}
    for name, node in schedule.nodes.items():
        with named(f"nodes.{name}"):
            nodes[name] = node.evaluated(how)
    return replace(schedule, nodes=nodes)


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of pass@k: of `samples` >= k samples, `passed` passed (arXiv 2107.03374)."""
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


@dataclass(slots=True)
class Tally:
    """Passes and failures of one peer's samples at one reward, by task; those that could not be judged are left out."""

    passed: dict[str, list[bool]] = field(default_factory=dict)

    def take(self, rows: Rollouts, *, threshold: float) -> None:
        """Add scored rows: a row passes when it did not fail and its reward is at least `threshold`.

        The term `correct` stands for the reward where there is one.
        """
        column = "reward_correct" if "reward_correct" in rows.table.column_names else "reward"
        columns = zip(rows.values("task_id"), rows.values("finish_reason"), rows.numpy(column), strict=True)
        for task, finish, value in columns:
            if finish == "failed" or np.isfinite(value):
                self.passed.setdefault(task, []).append(bool(finish != "failed" and value >= threshold))

    def at(self, k: int, tasks: Iterable[str] | None = None) -> float | None:
        """Return the mean pass@k over the tasks with at least `k` samples, None where there are none."""
        chosen = self.passed if tasks is None else tasks
        counts = [(len(passed), sum(passed)) for task in chosen if len(passed := self.passed.get(task, [])) >= k]
        return float(np.mean([pass_at_k(n, c, k) for n, c in counts])) if counts else None

    def by_kind(self, book: TaskBook) -> dict[str, list[str]]:
        """Return the task ids by kind of task; a task without a kind is listed under its source node."""
        kinds: dict[str, list[str]] = {}
        for task in self.passed:
            kinds.setdefault(book[task].kind or task.partition("/")[0], []).append(task)
        return dict(sorted(kinds.items()))


class Evaluator:
    """Evaluates between the rounds of a run, each time on the same tasks with the same random streams.

    An evaluation is a round of the evaluation schedule: every peer meets only itself, updates are off and sources
    return held-out tasks. Its rows go to groups under `eval/`; their `round` is the number of rounds trained before.
    """

    def __init__(self, context: RunContext, peers: Sequence[Peer], config: RunConfig) -> None:
        self._peers = {peer.name: peer for peer in peers}
        self._threshold = config.eval_threshold
        self._at = sorted({1, *(2**n for n in range(1, config.eval_samples.bit_length())), config.eval_samples})
        self._correctness = [name for name in totals(context.schedule) if _is_correctness(context.schedule, name)]
        self._stages = Stages(context.schedule, evaluating=True)
        self._watch = context.watch
        self._metrics: Metrics = {}
        self._tallies: dict[tuple[str, str], Tally] = {}
        self.history: list[tuple[int, Metrics]] = []
        self._context = replace(context, swarm=LoopbackSwarm(), evaluating=True, watch=self._take)

    def play(self, number: int) -> Metrics:
        """Evaluate after `number` rounds; returns metrics named `eval/...` by peer."""
        started = time.perf_counter()
        self._metrics, self._tallies = {name: {} for name in self._peers}, {}
        run_round(self._context, list(self._peers.values()), number)
        for (peer, node), tally in self._tallies.items():
            self._metrics[peer] |= self._pass_rates(node, tally, self._peers[peer].tasks)
        for peer, metrics in self._metrics.items():
            metrics |= self._stage_results(peer)
            metrics[f"{EVAL_PREFIX}time"] = time.perf_counter() - started
        self.history.append((number, self._metrics))
        return self._metrics

    def _take(self, done: StepReport) -> None:
        """Add a step's metrics to those of its peer, and the rows of a reward to its tally."""
        name = done.step.node
        metrics = self._metrics[done.peer]
        metrics |= {f"{EVAL_PREFIX}{name}/{metric}": value for metric, value in done.metrics.items()}
        for rows in done.outputs.values():
            if name in self._correctness and isinstance(rows, Rollouts):
                tally = self._tallies.setdefault((done.peer, name), Tally())
                tally.take(rows, threshold=self._threshold)
        self._watch(done)

    def _stage_results(self, peer: str) -> dict[str, float]:
        """Return the results of each stage's generators, such as the return of a game and the share of wins."""
        plain = {name.removeprefix(EVAL_PREFIX): value for name, value in self._metrics[peer].items()}
        lines = self._stages.lines({peer: plain})
        return {f"{EVAL_PREFIX}stage{line.stage}/{name}": v for line in lines for name, v in line.results.items()}

    def _pass_rates(self, node: str, tally: Tally, book: TaskBook) -> dict[str, float]:
        """Return the number of tasks of a reward and pass@k, over all tasks and by kind where there are several."""
        metrics = {f"{EVAL_PREFIX}{node}/tasks": float(len(tally.passed))}
        kinds = tally.by_kind(book)
        for k in self._at:
            if (value := tally.at(k)) is not None:
                metrics[f"{EVAL_PREFIX}{node}/pass_at_{k}"] = value
            for kind, tasks in kinds.items() if len(kinds) > 1 else ():
                if (value := tally.at(k, tasks)) is not None:
                    metrics[f"{EVAL_PREFIX}{node}/{kind}/pass_at_{k}"] = value
        return metrics


def _is_correctness(schedule: Schedule, name: str) -> bool:
    node = schedule.nodes[name]
    return isinstance(node, Reward) and node.is_correctness


def evaluation_line(number: int, peers: Metrics, baseline: Metrics) -> str:
    """Return an evaluation in one line: pass@1 of every reward and the results of every stage, means over the peers."""
    parts = []
    for name in _pass_names(peers):
        node, _, measure = name.removeprefix(EVAL_PREFIX).partition("/")
        if measure == "pass_at_1":
            first = "" if peers is baseline else f" (baseline {_mean(baseline, name):.3f})"
            parts.append(f"{node} pass@1 {_mean(peers, name):.3f}{first}")
    for name in result_names(name for metrics in peers.values() for name in metrics):
        first = "" if peers is baseline else f" (baseline {_mean(baseline, name):.4g})"
        parts.append(f"{name.partition('/')[2].partition('/')[2]} {_mean(peers, name):.4g}{first}")
    when = "before round 1" if number == 0 else f"after round {number}"
    return f"evaluation {when}: {', '.join(parts) or 'nothing was judged'}"


def evaluation_table(history: Sequence[tuple[int, Metrics]]) -> Group:
    """Return tables of the first and last evaluation and the change: pass@k of rewards, and results of stages."""
    (_, first), (_, last) = history[0], history[-1]
    pass_names, results = _pass_names(first), result_names(name for metrics in first.values() for name in metrics)
    tables = []
    if pass_names or not results:
        table = _new_table("reward", "tasks", "pass@k", change=first is not last)
        for name in pass_names:
            node, _, rest = name.removeprefix(EVAL_PREFIX).partition("/")
            kind, _, k = rest.rpartition("pass_at_")
            table.add_row(*map(Text, (node, kind.removesuffix("/") or "all", k, *_changed(first, last, name))))
        tables.append(table)
    if results:
        table = _new_table("stage", "result", change=first is not last)
        for name in results:
            stage, _, metric = name.removeprefix(EVAL_PREFIX).partition("/")
            table.add_row(*map(Text, (stage.removeprefix("stage"), metric, *_changed(first, last, name))))
        tables.append(table)
    return Group(*tables)


def result_names(names: Iterable[str]) -> list[str]:
    """Return the distinct names of stage results in evaluations (`eval/stage<k>/...`), in order."""
    return list(dict.fromkeys(name for name in names if re.match(rf"{EVAL_PREFIX}stage\d+/", name)))


def _new_table(*names: str, change: bool) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in (*names, *(("baseline", "last", "change") if change else ("baseline",))):
        table.add_column(name, justify="left" if name in ("reward", "tasks", "result") else "right", no_wrap=True)
    return table


def _changed(first: Metrics, last: Metrics, name: str) -> list[str]:
    before, after = _mean(first, name), _mean(last, name)
    return [f"{before:.3f}"] + ([] if first is last else [f"{after:.3f}", f"{after - before:+.3f}"])


def _pass_names(peers: Metrics) -> list[str]:
    """Return the distinct names of pass@k metrics, in order."""
    names = dict.fromkeys(name for metrics in peers.values() for name in metrics)
    return [name for name in names if name.rpartition("/")[2].startswith("pass_at_")]


def _mean(peers: Mapping[str, Mapping[str, Any]], name: str) -> float:
    values = [metrics[name] for metrics in peers.values() if name in metrics]
    return float(np.mean(values)) if values else math.nan
