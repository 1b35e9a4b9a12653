"""One step of one peer: inputs, node, outputs, record."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genrl_graph import seeds
from genrl_graph.contract.node import Exchange, Fork, Node, Reward, Source, Update
from genrl_graph.contract.resources import Log
from genrl_graph.dag.schedule import Schedule, Step
from genrl_graph.errors import ColumnError, GenrlGraphError, NodeFailed, RewardFailed
from genrl_graph.records.recall import Recorded, verify
from genrl_graph.records.write import EVAL_PREFIX, step_record
from genrl_graph.runners.loop.budget import Budget
from genrl_graph.runners.loop.exchange import Behind, Meeting, Swarm
from genrl_graph.runners.loop.outputs import failed_rows, named_outputs, refuse_useless
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.signals import Interrupted
from genrl_graph.runners.loop.step_metrics import step_metrics
from genrl_graph.runners.loop.trace import Trace
from genrl_graph.store.journal import Record


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step of one peer: what is committed, reported and given on."""

    record: Record | None
    metrics: Mapping[str, float]
    outputs: Mapping[str, Any]
    tries: int = 1
    recalled: bool = False
    seconds: float | None = None  # of a step that ran ahead


class Steps:
    """Runs one step of one peer: binds inputs, runs the node or recalls what it gave, and makes the record.

    Updates and forks of an evaluation hand on the value that they were given. What `recall` knows was committed
    before the run was cut: outputs are made again from the record; only updates and forks are applied again, and
    verified. `inputs` gives what a node reads in a round.
    """

    def __init__(
        self,
        schedule: Schedule,
        swarm: Swarm,
        *,
        seed: int,
        budget: Budget,
        evaluating: bool,
        recall: Callable[[int, str, str], Recorded | None],
        inputs: Callable[[str, int, Peer], dict[str, Any]],
        trace: Trace,
    ) -> None:
        self.schedule = schedule
        self._swarm, self._seed = swarm, seed
        self._budget, self._evaluating = budget, evaluating
        self._recall, self._prefix, self._trace = recall, EVAL_PREFIX if evaluating else "", trace
        self._inputs = inputs

    def run(self, step: Step, round: int, peer: Peer, errors: Sequence[str]) -> StepResult:
        """Run the step, or recall it; raises the error of the node with the place where it happened."""
        node = self.schedule.nodes[step.node]
        with self.span("inputs", step, round, peer):
            inputs = self._inputs(step.node, round, peer)
        recorded = None if step.action == "open" else self.recorded(step, round, peer)
        try:
            if recorded is not None and not isinstance(node, Update | Fork):
                if step.action == "close" and self.is_wanted(node, round):
                    self._close(step, node, round, peer)
                played = self._recall_outputs(node, inputs, peer, recorded)
            elif self._evaluating and isinstance(node, Update | Fork):
                played = StepResult(None, {}, _handed_on(step.node, node, inputs))
            else:
                played = self._execute(step, node, inputs, round, peer, errors)
        except (Behind, Interrupted):
            raise
        except GenrlGraphError as error:
            text = str(error).removeprefix(f"{step.node}: ")  # nodes that are run by hand name themselves
            kind = RewardFailed if isinstance(node, Reward) and isinstance(error, ColumnError) else type(error)
            raise kind(f"{self.where(step, round, peer.name)}: {text}") from error
        except Exception as error:
            failed = RewardFailed if isinstance(node, Reward) else NodeFailed
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise failed(f"{self.where(step, round, peer.name)}: {what} ({_raised_at(error)})") from error
        if recorded is not None and played.record is not None:
            verify(recorded, played.record, where=self.where(step, round, peer.name))
            played = replace(played, record=None, metrics=recorded.metrics, recalled=True)
        return played

    def recorded(self, step: Step, round: int, peer: Peer) -> Recorded | None:
        """Return what the run had committed of a step before it was cut, None where it had not."""
        return self._recall(round, self._prefix + step.node, peer.name)

    def is_wanted(self, node: Node, round: int) -> bool:
        """Whether the swarm still waits for this exchange of a round."""
        return isinstance(node, Exchange) and self._swarm.wanted(node, round=round)

    def _recall_outputs(self, node: Node, inputs: Mapping[str, Any], peer: Peer, recorded: Recorded) -> StepResult:
        outputs = recorded.outputs(node, self.schedule.types, inputs, holder=peer.name, prefix=self._prefix)
        self._budget.retries += recorded.retries
        return StepResult(None, recorded.metrics, outputs, recorded.retries + 1, recalled=True)

    def _execute(
        self, step: Step, node: Node, inputs: Mapping[str, Any], round: int, peer: Peer, errors: Sequence[str]
    ) -> StepResult:
        log, offer = Log(), None
        if step.action == "open":
            assert isinstance(node, Exchange)
            offered = node.offer(**inputs)  # type: ignore[attr-defined]  # the contract was read at definition
            self._swarm.open(node, round=round, peer=peer.name, offer=offered)
            return StepResult(None, {"rows": float(len(offered))}, {})
        resources = self._resources(node, round, peer, log)
        if step.action == "close":
            assert isinstance(node, Exchange)
            meeting = self._close(step, node, round, peer)
            offer = next((packet.rows for packet in meeting.packets if packet.peer == peer.name), None)
            output = node.admit(list(meeting.packets), **resources)  # type: ignore[attr-defined]
            _note(log, meeting)
        else:
            output = node.run(**inputs, **resources)  # type: ignore[attr-defined]
        if errors:
            log.fact("retried", list(errors))
        outputs = named_outputs(node, output, self.schedule.types)
        refuse_useless(node, inputs, outputs)
        metrics = step_metrics(node, outputs, log)
        if (lost := failed_rows(node, inputs, outputs)) > 0:
            metrics["failed_rows"] = float(lost)
        metrics = dict(sorted(metrics.items()))  # as a record gives them back
        record = step_record(
            node,
            self.schedule.types,
            round=round,
            peer=peer.name,
            prefix=self._prefix,
            inputs=inputs,
            outputs=outputs,
            offer=offer,
            metrics=metrics,
            log=log,
        )
        return StepResult(record, metrics, outputs, len(errors) + 1)

    def _close(self, step: Step, node: Node, round: int, peer: Peer) -> Meeting:
        assert isinstance(node, Exchange)
        known = peer.vocabularies
        with self.span("wait", step, round, peer):
            return self._swarm.close(node, round=round, peer=peer.name, tasks=peer.tasks, vocabularies=known)

    def span(self, kind: str, step: Step, round: int, peer: Peer) -> AbstractContextManager[dict[str, object]]:
        """The step itself, or a part of it, in the profile."""
        name = self._prefix + (str(step) if kind == "step" else f"{kind} {step.node}")
        facts = {"node": step.node, "round": round, "stage": step.stage}
        return self._trace.span(name, kind, peer.name, facts)

    def where(self, step: Step, round: int, peer: str) -> str:
        """Return the place that errors name: node, round and peer."""
        when = f"evaluation after {round} rounds" if self._evaluating else f"round {round}"
        return f"nodes.{step.node} ({when}, {peer})"

    def _resources(self, node: Node, round: int, peer: Peer, log: Log) -> dict[str, Any]:
        name = node.place.node
        parts: tuple[seeds.Part, ...] = (round, name, peer.name)
        if isinstance(node, Source):
            round = 0 if self._evaluating else round  # all evaluations ask the same tasks
            parts = ("source", name) if node.shared else ("source", name, peer.name)
        elif self._evaluating:
            parts = (name, peer.name)  # and the same luck
        parts = (self._seed, "eval", *parts) if self._evaluating else (self._seed, *parts)
        wanted = node.signature.resources
        supply: dict[str, Callable[[], Any]] = {
            "rng": lambda: seeds.stream(*parts),
            "tasks": lambda: peer.tasks,
            "log": lambda: log,
            "round": lambda: round,
            "peer": lambda: peer.name,
        }
        return {resource: supply[resource]() for resource in wanted}


def sizes_of(played: StepResult) -> dict[str, object]:
    """What a profile says of a step that is done."""
    return {name: int(played.metrics[name]) for name in ("rows", "tokens") if name in played.metrics}


def _raised_at(error: Exception) -> str:
    """The innermost line outside this package, such as "my_nodes.py:12 in run"; the author of a node looks there."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).parents[2])
    foreign = [frame for frame in frames if not frame.filename.startswith(package)]
    last = (foreign or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} in {last.name}"


def _handed_on(name: str, node: Node, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of an update or fork that does nothing: the values that they would replace."""
    return {f"{name}.{field}" if field else name: inputs[socket] for field, socket in node.signature.replaced.items()}


def _note(log: Log, meeting: Meeting) -> None:
    log.fact("peers", {packet.peer: len(packet.rows) for packet in meeting.packets})
    for name, fact in meeting.facts.items():
        log.fact(name, fact)
    for name, value in {"peers": len(meeting.packets), **meeting.metrics}.items():
        log.metric(name, value)
    if meeting.refusals:
        log.rows("refusals", meeting.refusals)
