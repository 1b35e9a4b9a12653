"""The one loop: plays the steps of a schedule, round after round, for the peers of this process."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

import genrl_graph
from genrl_graph import seeds
from genrl_graph.errors import ColumnError, GenrlGraphError, NodeFailed, RewardFailed
from genrl_graph.frames import Frame
from genrl_graph.graph import Part
from genrl_graph.journal import Record
from genrl_graph.node import Coordinate, Exchange, Fork, Node, Reward, Source, Update
from genrl_graph.policy import Carried, Policy
from genrl_graph.resources import Log, TaskBook
from genrl_graph.runners.budget import Budget
from genrl_graph.runners.meet import Meeting, Swarm
from genrl_graph.runners.outputs import failed_rows, named_outputs, refuse_useless
from genrl_graph.runners.record import step_metrics, stored_columns
from genrl_graph.schedule import Schedule, Step

EVAL = "eval/"
"""What the groups of an evaluation in the store, and its metrics, begin with."""


@dataclass(slots=True)
class Peer:
    """One copy of the game: its own carries and its own task book; `values` holds the outputs of the round."""

    name: str
    carries: dict[str, Carried]
    tasks: TaskBook
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """What one peer's step gave: its time in seconds, what it reported, its outputs, and the tries that it took."""

    round: int
    step: Step
    peer: str
    seconds: float
    metrics: Mapping[str, float]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 1


@dataclass(frozen=True, slots=True)
class _Played:
    """A step of one peer: what is committed, reported and given on."""

    record: Record | None
    metrics: dict[str, float]
    outputs: dict[str, Any]
    tries: int = 1


class Loop:
    """Plays rounds of a schedule. Peers run every step in the order of their names, on one thread.

    One that is `evaluating` plays the schedule of an evaluation (`evaluate.evaluation_schedule`): updates and forks
    hand on the value that they were given, coordinators are left out, random streams and groups of the store are its
    own, and `round` is the number of rounds trained so far.
    """

    def __init__(
        self,
        schedule: Schedule,
        peers: Sequence[Peer],
        swarm: Swarm,
        *,
        seed: int,
        commit: Callable[[Sequence[Record]], object],
        begin: Callable[[Step, str], None] = lambda step, peer: None,
        watch: Callable[[Done], None] = lambda done: None,
        budget: Budget | None = None,
        evaluating: bool = False,
    ) -> None:
        self.schedule = schedule
        self.peers = list(peers)
        self._swarm = swarm
        self._seed = seed
        self._commit = commit
        self._begin, self._watch = begin, watch
        self._budget, self._evaluating = budget or Budget(), evaluating

    def play(self, round: int) -> None:
        """One pass over the graph; each step of all peers is committed before the next begins."""
        for peer in self.peers:
            peer.values = dict(peer.carries)
        for step in self.schedule.steps:
            if self._evaluating and isinstance(self.schedule.nodes[step.node], Coordinate):
                continue
            records, done = [], []
            for peer in self.peers:
                self._begin(step, peer.name)
                started = time.perf_counter()
                played = self._play(step, round, peer)
                seconds = time.perf_counter() - started
                done.append(Done(round, step, peer.name, seconds, played.metrics, played.outputs, played.tries))
                if played.record is not None:
                    records.append(played.record)
            if records:
                self._commit(records)
            for item in done:
                rows = int(item.metrics.get("failed_rows", 0))
                self._budget.spend_rows(rows, where=_where(step, round, item.peer))
                self._watch(item)
        for peer in self.peers:
            if self._evaluating:
                peer.values = {}
                continue
            for name, part in self.schedule.graph.carries.items():
                peer.carries[name] = value = peer.values[part.next or name]
                if isinstance(value, Policy):
                    value.name = name  # a fork that is carried on becomes the policy of that carry
            peer.values = {}

    def _play(self, step: Step, round: int, peer: Peer) -> "_Played":
        """One step of one peer, tried again as long as the budget allows."""
        errors: list[str] = []
        while True:
            try:
                return self._step(step, round, peer, errors)
            except GenrlGraphError as error:
                if not self._budget.retry(self.schedule.nodes[step.node], error, attempt=len(errors)):
                    raise
                errors.append(str(error))

    def _step(self, step: Step, round: int, peer: Peer, errors: Sequence[str]) -> "_Played":
        node = self.schedule.nodes[step.node]
        part = self.schedule.graph.nodes[step.node]
        log = Log()
        try:
            inputs = _inputs(part, peer.values)
            if step.action == "open":
                assert isinstance(node, Exchange)
                offer = node.offer(**inputs)  # type: ignore[attr-defined]  # the contract was read at definition
                self._swarm.open(node, round=round, peer=peer.name, offer=offer)
                return _Played(None, {"rows": float(len(offer))}, {})
            if self._evaluating and isinstance(node, Update | Fork):
                outputs = _handed_on(step.node, node, inputs)
                peer.values.update(outputs)
                return _Played(None, {}, outputs)
            resources = self._resources(node, round, peer, log)
            if step.action == "close":
                assert isinstance(node, Exchange)
                meeting = self._swarm.close(node, round=round, peer=peer.name)
                output = node.admit(list(meeting.packets), **resources)  # type: ignore[attr-defined]
                _note(log, meeting)
            else:
                output = node.run(**inputs, **resources)  # type: ignore[attr-defined]
            if errors:
                log.fact("retried", list(errors))
            outputs = named_outputs(node, output, self.schedule.types)
            refuse_useless(node, inputs, outputs)
            record = self._record(node, part, round, peer, inputs, outputs, log)
        except GenrlGraphError as error:
            text = str(error).removeprefix(f"{step.node}: ")  # nodes that are run by hand name themselves
            kind = RewardFailed if isinstance(node, Reward) and isinstance(error, ColumnError) else type(error)
            raise kind(f"{_where(step, round, peer.name)}: {text}") from error
        except Exception as error:
            failed = RewardFailed if isinstance(node, Reward) else NodeFailed
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise failed(f"{_where(step, round, peer.name)}: {what} ({_raised_at(error)})") from error
        peer.values.update(outputs)
        metrics = step_metrics(node, outputs, log)
        if (lost := failed_rows(node, inputs, outputs)) > 0:
            metrics["failed_rows"] = float(lost)
        return _Played(record, metrics, outputs, len(errors) + 1)

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

    def _record(
        self,
        node: Node,
        part: Part,
        round: int,
        peer: Peer,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        log: Log,
    ) -> Record:
        tables, facts = {}, dict(log.facts)
        prefix = EVAL if self._evaluating else ""
        for ref, value in outputs.items():
            if isinstance(value, Frame):
                tables[prefix + ref.replace(".", "/")] = stored_columns(node, value, inputs, peer.name)
            elif isinstance(value, Carried):
                facts.setdefault("digests", {})[ref] = value.digest()
                if isinstance(value, Policy):
                    facts.setdefault("versions", {})[ref] = value.version
        for name, columns in log.tables.items():
            table = pa.table(dict(columns))
            if table.num_rows:  # Arrow cannot tell the types of empty lists
                tables[f"{prefix}{part.name}/{name}"] = table
        return Record(round, prefix + part.name, peer.name, facts, tables)


def _raised_at(error: Exception) -> str:
    """The innermost line outside this package, such as "my_nodes.py:12 in run"; the author of a node looks there."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(genrl_graph.__file__).parent)
    foreign = [frame for frame in frames if not frame.filename.startswith(package)]
    last = (foreign or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} in {last.name}"


def _where(step: Step, round: int, peer: str) -> str:
    return f"nodes.{step.node} (round {round}, {peer})"


def _inputs(part: Part, values: Mapping[str, Any]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name, wire in part.inputs.items():
        socket = part.socket(name)
        assert socket is not None
        if isinstance(wire, Mapping):
            inputs[name] = {key: values[ref] for key, ref in wire.items()}
        elif isinstance(wire, str):
            inputs[name] = [values[wire]] if socket.many == "list" else values[wire]
        else:
            inputs[name] = [values[ref] for ref in wire]
    return inputs


def _handed_on(name: str, node: Node, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of an update or fork that does nothing: the values that they would replace."""
    return {f"{name}.{field}" if field else name: inputs[socket] for field, socket in node.signature.replaced.items()}


def _note(log: Log, meeting: Meeting) -> None:
    log.fact("peers", {packet.peer: len(packet.rows) for packet in meeting.packets})
    for name, fact in meeting.facts.items():
        log.fact(name, fact)
    log.metric("peers", len(meeting.packets))
