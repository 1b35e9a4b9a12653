"""Dry play: one round with stand-ins for models and hubs, which tries out prompts, rewards, types and the store."""

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from genrl_graph.contract.node import Carry, Exchange, Fork, Generator, Update
from genrl_graph.contract.policy import Carried, TextPolicy
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.errors import named
from genrl_graph.runners.loop.context import StepReport
from genrl_graph.runners.play import Run, play_schedule

SHOWN_CHARACTERS = 1200
EVAL_TASKS = 2


@dataclass(slots=True)
class Sample:
    """The first prompt of a generator and its completion, or the reason why there is none."""

    node: str
    messages: list[dict[str, str]]
    completion: str
    tokens: int
    counted: bool  # with the tokenizer of the model, not with that of its stand-in


@dataclass(slots=True)
class DryReport:
    """The steps of a dry round, without their outputs, and a sample of each generator."""

    steps: list[StepReport] = field(default_factory=list)
    samples: dict[str, Sample] = field(default_factory=dict)
    stand_ins: dict[str, Carried] = field(default_factory=dict)

    def make(self, carry: Carry, name: str, seed: int) -> Carried:
        """Make the stand-in of a carry."""
        self.stand_ins[name] = value = carry.dry(name, seed=seed)
        return value

    def take(self, done: StepReport, schedule: Schedule) -> None:
        """Add a step; store the first prompt of a generator."""
        if not (done.evaluating and isinstance(schedule.nodes[done.step.node], Update | Fork)):
            self.steps.append(replace(done, outputs={}))
        name = done.step.node
        for rows in done.outputs.values():
            if not isinstance(schedule.nodes[name], Generator) or name in self.samples:
                continue
            if isinstance(rows, Rollouts) and len(rows):
                (row,) = rows.take([0]).rows("messages", "completion", "error", "prompt_ids", "policy")
                policies = [value for value in self.stand_ins.values() if isinstance(value, TextPolicy)]
                counted = all(policy.counts_tokens for policy in policies if policy.name == row["policy"])
                text = row["completion"] or row["error"]
                self.samples[name] = Sample(name, row["messages"], text, len(row["prompt_ids"]), counted)


def dry_play(
    graph: Graph,
    *,
    out: Path | str | None = None,
    quiet: bool = False,
    imports: Mapping[str, str] | None = None,
) -> Run:
    """Play one round in seconds with the `dry` forms of carries and nodes: nothing is downloaded or loaded.

    As many peers play as the exchanges need. The run folder is `out`, or a temporary one that is removed. Raises the
    errors of a run, such as those of a template that reads an unknown name, or a reward that fails on every row.
    """
    declared = compile_graph(graph)
    schedule = dry_schedule(declared)
    needed = [node.min_peers for node in schedule.nodes.values() if isinstance(node, Exchange)]
    changes = {
        "rounds": 1,
        "peers": max([graph.run.peers, *needed]),
        "eval_every": 0,
        "eval_tasks": min(graph.run.eval_tasks, EVAL_TASKS),
        "trackers": (),
        "max_retries": 0,
        "coordinator": None,
    }
    config = graph.run.model_copy(update=changes)
    console = Console(stderr=True, highlight=False, quiet=quiet)
    seen, started = DryReport(), time.monotonic()
    with ExitStack() as stack:
        folder = Path(out) if out is not None else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "dry"
        run = play_schedule(
            schedule,
            config,
            folder=folder,
            console=Console(quiet=True),
            imports=imports or {},
            make=seen.make,
            see=lambda done: seen.take(done, schedule),
            resumable=False,
        )
    _report(console, schedule, seen, replaced=_replaced(declared, schedule), seconds=time.monotonic() - started)
    return run


def dry_schedule(schedule: Schedule) -> Schedule:
    """Return the schedule with the dry form of every node."""
    nodes = {}
    for name, node in schedule.nodes.items():
        with named(f"nodes.{name}"):
            nodes[name] = node.dry().placed(node.place)
    return replace(schedule, nodes=nodes)


def _replaced(schedule: Schedule, dry: Schedule) -> list[str]:
    """Return the carries and nodes that were replaced by stand-ins, each with its type name."""
    carries = [name for name, part in schedule.graph.carries.items() if type(part.carry).dry is not Carry.dry]
    nodes = [name for name, node in schedule.nodes.items() if type(dry.nodes[name]) is not type(node)]
    return [f"{name} ({schedule.graph.part(name).type_name})" for name in (*carries, *nodes)]


def _report(console: Console, schedule: Schedule, seen: DryReport, *, replaced: list[str], seconds: float) -> None:
    for sample in seen.samples.values():
        whose = "" if sample.counted else " of the stand-in"
        console.rule(f"{sample.node}: first prompt, {sample.tokens} tokens{whose}", align="left", style="dim")
        for message in sample.messages:
            console.print(f"[{message['role']}]", _shown(message["content"]), markup=False, soft_wrap=True)
        console.print("[completion]", _shown(sample.completion) or "(nothing)", markup=False, soft_wrap=True)
    console.print(_table(schedule, seen))
    peers = len({done.peer for done in seen.steps})
    stand_ins = ", ".join(replaced) or "none"
    console.print(
        f"dry play of {schedule.graph.name}: ok (1 round, {peers} peer{'s' * (peers > 1)}, {seconds:.1f} s); "
        f"stand-ins: {stand_ins}; the numbers mean nothing",
        soft_wrap=True,
        markup=False,
    )


def _table(schedule: Schedule, seen: DryReport) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in ("step", "type", "rows", "failed", "reward", "seconds"):
        table.add_column(column, justify="left" if column in ("step", "type") else "right", no_wrap=True)
    peer = seen.steps[0].peer
    for done in seen.steps:
        if done.peer == peer:
            metrics = done.metrics
            table.add_row(
                f"{done.step} (evaluation)" if done.evaluating else str(done.step),
                schedule.graph.nodes[done.step.node].type_name,
                f"{metrics['rows']:.0f}" if "rows" in metrics else "",
                f"{metrics['failed_rows']:.0f}" if metrics.get("failed_rows") else "",
                f"{metrics['reward']:.3f}" if "reward" in metrics else "",
                f"{done.seconds:.2f}",
            )
    return table


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ... ({len(text)} characters)"
