"""The one loop: plays the steps of a schedule, round after round, for the peers of this process."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import genrl_graph
from genrl_graph import seeds
from genrl_graph.errors import ColumnError, GenrlGraphError, NodeFailed, RewardFailed
from genrl_graph.frames import Frame
from genrl_graph.graph import Part
from genrl_graph.journal import Record
from genrl_graph.node import Exchange, Node, Reward, Source
from genrl_graph.policy import Carried, Policy
from genrl_graph.resources import Log, TaskBook
from genrl_graph.runners.meet import Meeting, Swarm
from genrl_graph.runners.record import step_metrics, stored_columns
from genrl_graph.schedule import Schedule, Step


@dataclass(slots=True)
class Peer:
    """One copy of the game: its own carries and its own task book; `values` holds the outputs of the round."""

    name: str
    carries: dict[str, Carried]
    tasks: TaskBook
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """What one peer's step gave: its time in seconds and what it reported."""

    round: int
    step: Step
    peer: str
    seconds: float
    metrics: Mapping[str, float]


class Loop:
    """Plays rounds of a schedule. Peers run every step in the order of their names, on one thread."""

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
    ) -> None:
        self.schedule = schedule
        self.peers = list(peers)
        self._swarm = swarm
        self._seed = seed
        self._commit = commit
        self._begin, self._watch = begin, watch

    def play(self, round: int) -> None:
        """One pass over the graph; each step of all peers is committed before the next begins."""
        for peer in self.peers:
            peer.values = dict(peer.carries)
        for step in self.schedule.steps:
            records, done = [], []
            for peer in self.peers:
                self._begin(step, peer.name)
                started = time.perf_counter()
                record, metrics = self._step(step, round, peer)
                done.append(Done(round, step, peer.name, time.perf_counter() - started, metrics))
                if record is not None:
                    records.append(record)
            if records:
                self._commit(records)
            for item in done:
                self._watch(item)
        for peer in self.peers:
            for name, part in self.schedule.graph.carries.items():
                peer.carries[name] = value = peer.values[part.next or name]
                if isinstance(value, Policy):
                    value.name = name  # a fork that is carried on becomes the policy of that carry
            peer.values = {}

    def _step(self, step: Step, round: int, peer: Peer) -> tuple[Record | None, dict[str, float]]:
        node = self.schedule.nodes[step.node]
        part = self.schedule.graph.nodes[step.node]
        log = Log()
        try:
            inputs = _inputs(part, peer.values)
            if step.action == "open":
                assert isinstance(node, Exchange)
                offer = node.offer(**inputs)  # type: ignore[attr-defined]  # the contract was read at definition
                self._swarm.open(node, round=round, peer=peer.name, offer=offer)
                return None, {"rows": float(len(offer))}
            resources = self._resources(node, round, peer, log)
            if step.action == "close":
                assert isinstance(node, Exchange)
                meeting = self._swarm.close(node, round=round, peer=peer.name)
                output = node.admit(list(meeting.packets), **resources)  # type: ignore[attr-defined]
                _note(log, meeting)
            else:
                output = node.run(**inputs, **resources)  # type: ignore[attr-defined]
            outputs = self._outputs(step.node, output)
            record = self._record(node, part, round, peer, inputs, outputs, log)
        except GenrlGraphError as error:
            text = str(error).removeprefix(f"{step.node}: ")  # nodes that are run by hand name themselves
            kind = RewardFailed if isinstance(node, Reward) and isinstance(error, ColumnError) else type(error)
            raise kind(f"{_where(step, round, peer)}: {text}") from error
        except Exception as error:
            failed = RewardFailed if isinstance(node, Reward) else NodeFailed
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise failed(f"{_where(step, round, peer)}: {what} ({_raised_at(error)})") from error
        peer.values.update(outputs)
        return record, step_metrics(node, outputs, log)

    def _resources(self, node: Node, round: int, peer: Peer, log: Log) -> dict[str, Any]:
        name = node.place.node
        parts: tuple[seeds.Part, ...] = (self._seed, round, name, peer.name)
        if isinstance(node, Source):
            parts = (self._seed, "source", name) if node.shared else (self._seed, "source", name, peer.name)
        wanted = node.signature.resources
        supply: dict[str, Callable[[], Any]] = {
            "rng": lambda: seeds.stream(*parts),
            "tasks": lambda: peer.tasks,
            "log": lambda: log,
            "round": lambda: round,
            "peer": lambda: peer.name,
        }
        return {resource: supply[resource]() for resource in wanted}

    def _outputs(self, name: str, output: Any) -> dict[str, Any]:
        fields = self.schedule.nodes[name].signature.outputs
        missing = [field for field in fields if field and not hasattr(output, field)]
        if missing:
            raise NodeFailed(f"gave {type(output).__name__} without {missing[0]!r}, which its `run` declares")
        found = {f"{name}.{field}" if field else name: getattr(output, field) if field else output for field in fields}
        for ref, value in found.items():
            wanted = self.schedule.types[ref]
            fits = wanted.accepts(value.edge_type) if isinstance(value, Frame) else isinstance(value, wanted.base)
            if not fits:
                given = value.edge_type if isinstance(value, Frame) else type(value).__name__
                raise NodeFailed(f"gave {given} where its `run` declares {wanted}")
        self._refuse_useless(self.schedule.nodes[name], found)
        return found

    def _refuse_useless(self, node: Node, outputs: Mapping[str, Any]) -> None:
        """Tasks given twice would make rollouts of one id; a reward that judges nothing would train nothing."""
        for rows in outputs.values():
            if isinstance(node, Source) and "id" in rows.table.column_names:
                ids = rows.values("id")
                if len(set(ids)) < len(ids):
                    twice = next(id for id in ids if ids.count(id) > 1)
                    raise NodeFailed(f"gave task {twice!r} twice in a round; give every task one id")
            if isinstance(node, Reward) and len(rows):
                names = rows.table.column_names
                judged = np.isfinite(rows.numpy("reward"))
                failed = rows.numpy("finish") == "failed" if "finish" in names else np.zeros(len(rows), dtype=bool)
                if not judged.any() and not failed.all():
                    raise RewardFailed(f"judged none of {len(rows) - int(failed.sum())} rows: every reward is NaN")

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
        for ref, value in outputs.items():
            if isinstance(value, Frame):
                tables[ref.replace(".", "/")] = stored_columns(node, value, inputs, peer.name)
            elif isinstance(value, Carried):
                facts.setdefault("digests", {})[ref] = value.digest()
                if isinstance(value, Policy):
                    facts.setdefault("versions", {})[ref] = value.version
        for name, columns in log.tables.items():
            table = pa.table(dict(columns))
            if table.num_rows:  # Arrow cannot tell the types of empty lists
                tables[f"{part.name}/{name}"] = table
        return Record(round, part.name, peer.name, facts, tables)


def _raised_at(error: Exception) -> str:
    """The innermost line outside this package, such as "my_nodes.py:12 in run"; the author of a node looks there."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(genrl_graph.__file__).parent)
    foreign = [frame for frame in frames if not frame.filename.startswith(package)]
    last = (foreign or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} in {last.name}"


def _where(step: Step, round: int, peer: Peer) -> str:
    return f"nodes.{step.node} (round {round}, {peer.name})"


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


def _note(log: Log, meeting: Meeting) -> None:
    log.fact("peers", {packet.peer: len(packet.rows) for packet in meeting.packets})
    for name, fact in meeting.facts.items():
        log.fact(name, fact)
    log.metric("peers", len(meeting.packets))
