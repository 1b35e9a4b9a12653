"""The context of all rounds of a run: schedule, swarm, seed, budget and callbacks; and the report of a step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from genrl_graph.contract.node import Exchange
from genrl_graph.contract.resources import OVER_BUDGET
from genrl_graph.dag.schedule import Schedule, Step
from genrl_graph.records.recall import RecordedStep
from genrl_graph.records.write import EVAL_PREFIX
from genrl_graph.runners.loop.budget import Budget
from genrl_graph.runners.loop.exchange import Swarm
from genrl_graph.runners.loop.failures import NONE_FAILED, FailedRows
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.threads import Threads
from genrl_graph.runners.loop.trace import SILENT, Trace
from genrl_graph.store.journal import Record


@dataclass(frozen=True, slots=True)
class StepReport:
    """A committed step of one peer: seconds, metrics, outputs, and the number of tries.

    `recalled`: a previous run committed the step, so `seconds` is not the time that it took. `failed` are its own rows
    that failed or stayed unjudged, `digests` those of the carried values that it returned.
    """

    round: int
    step: Step
    peer: str
    seconds: float
    metrics: Mapping[str, float]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 1
    recalled: bool = False
    evaluating: bool = False
    failed: FailedRows = NONE_FAILED
    digests: Mapping[str, str] = field(default_factory=dict)


def _ignore(*arguments: object) -> None:
    """Do nothing."""


def _recall_nothing(round: int, node: str, peer: str) -> RecordedStep | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The schedule, the seed, and the functions that a round calls.

    `begin` is called before a step runs, `commit` stores its records, `watch` gets its report. `recall` returns what
    a previous run committed of a round, node and peer. `read_inputs` returns the inputs of a node in a round; the
    default are the outputs of this round, as the graph wires them. Background steps overlap only with the default.

    An `evaluating` context plays the schedule of an evaluation (`evaluate.evaluation_schedule`): updates and forks
    return their input, random streams and groups of the store are its own, and the round
    number is the number of rounds trained so far. In a replay, `replayed` returns the facts that the run recorded of a
    node and peer in this round, None for a new node.
    """

    schedule: Schedule
    swarm: Swarm
    seed: int
    commit: Callable[[Sequence[Record]], object]
    begin: Callable[[Step, str], None] = _ignore
    watch: Callable[[StepReport], None] = _ignore
    budget: Budget = field(default_factory=Budget)
    evaluating: bool = False
    recall: Callable[[int, str, str], RecordedStep | None] = _recall_nothing
    read_inputs: Callable[[str, int, Peer], dict[str, Any]] | None = None
    replayed: Callable[[str, str], Mapping[str, Any] | None] | None = None
    trace: Trace = SILENT
    threads: Threads = field(default_factory=lambda: Threads(fixed=True))

    @property
    def prefix(self) -> str:
        """The prefix of store groups and trace spans: `eval/` in evaluations."""
        return EVAL_PREFIX if self.evaluating else ""

    @property
    def background(self) -> Mapping[str, Sequence[Step]]:
        """The background steps, by the step beside which they start."""
        return self.schedule.background if self.read_inputs is None else {}

    def inputs(self, node: str, round: int, peer: Peer) -> dict[str, Any]:
        """Return the inputs of a node by name."""
        if self.read_inputs is not None:
            return self.read_inputs(node, round, peer)
        return self.schedule.graph.nodes[node].bind(peer.values)

    def recorded(self, step: Step, round: int, peer: Peer) -> RecordedStep | None:
        """Return the step as a previous run committed it, None where it did not."""
        return self.recall(round, self.prefix + step.node, peer.name)

    def cut(self, step: Step, peer: Peer) -> Mapping[str, Sequence[str]] | None:
        """Return the rows, by author, for which a step has no time: recorded ones in a replay; None: it measures."""
        recorded = None if self.replayed is None else self.replayed(step.node, peer.name)
        if recorded is not None:
            rows: Mapping[str, Sequence[str]] = recorded.get(OVER_BUDGET, {})
            return rows
        return {} if self.swarm.trusted and self.replayed is None else None

    def is_awaited(self, step: Step, round: int) -> bool:
        """Return whether the swarm still waits for this peer's offer, although a previous run closed the exchange."""
        node = self.schedule.nodes[step.node]
        return isinstance(node, Exchange) and self.swarm.wanted(node, round=round)

    def span(self, kind: str, step: Step, round: int, peer: Peer) -> AbstractContextManager[dict[str, object]]:
        """Trace a step (kind "step"), or a part of it: "inputs", "wait", "await", "commit"."""
        name = self.prefix + (str(step) if kind == "step" else f"{kind} {step.node}")
        return self.trace.span(name, kind, peer.name, {"node": step.node, "round": round, "stage": step.stage})

    def where(self, step: Step, round: int, peer: str) -> str:
        """Return the place that errors name: node, round and peer."""
        when = f"evaluation after {round} rounds" if self.evaluating else f"round {round}"
        return f"nodes.{step.node} ({when}, {peer})"
