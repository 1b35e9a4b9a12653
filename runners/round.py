"""The one loop: plays the steps of a schedule, round after round, for the peers of this process."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from genrl_graph import seeds
from genrl_graph.edges import PEER, SCORED
from genrl_graph.errors import GenrlGraphError, NodeFailed, RewardFailed
from genrl_graph.frames import Frame
from genrl_graph.graph import Part
from genrl_graph.journal import Record
from genrl_graph.node import Advantage, Exchange, Generator, Node, Reward, Source
from genrl_graph.policy import Carried, Policy
from genrl_graph.resources import Log, TaskBook
from genrl_graph.runners.meet import Meeting, Swarm
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
        watch: Callable[[Done], None] = lambda done: None,
    ) -> None:
        self.schedule = schedule
        self.peers = list(peers)
        self._swarm = swarm
        self._seed = seed
        self._commit = commit
        self._watch = watch

    def play(self, round: int) -> None:
        """One pass over the graph; each step of all peers is committed before the next begins."""
        for peer in self.peers:
            peer.values = dict(peer.carries)
        for step in self.schedule.steps:
            records, done = [], []
            for peer in self.peers:
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
            peer.carries = {name: peer.values[part.next or name] for name, part in self.schedule.graph.carries.items()}
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
            raise type(error)(f"{_where(step, round, peer)}: {error}") from error
        except Exception as error:
            kind = RewardFailed if isinstance(node, Reward) else NodeFailed
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise kind(f"{_where(step, round, peer)}: {what}") from error
        peer.values.update(outputs)
        return record, _metrics(node, outputs, log)

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
        return found

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
                tables[ref.replace(".", "/")] = _stored(node, value, inputs, peer.name)
            elif isinstance(value, Carried):
                facts.setdefault("digests", {})[ref] = value.digest()
                if isinstance(value, Policy):
                    facts.setdefault("versions", {})[ref] = value.version
        for name, columns in log.tables.items():
            table = pa.table(dict(columns))
            if table.num_rows:  # Arrow cannot tell the types of empty lists
                tables[f"{part.name}/{name}"] = table
        return Record(round, part.name, peer.name, facts, tables)


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


def _stored(node: Node, rows: Frame, inputs: Mapping[str, Any], holder: str) -> pa.Table:
    """What the store keeps of an output: rows in full where they came into being here, else ids and what was added."""
    names = rows.table.column_names
    if PEER in rows.marks and isinstance(node, Exchange):
        return rows.where([peer != holder for peer in rows.values("peer")]).table if "peer" in names else rows.table
    if "id" not in names or isinstance(node, Source | Generator | Exchange):
        return rows.table
    known = {name for value in inputs.values() for frame in _frames(value) for name in frame.table.column_names}
    judges = isinstance(node, Reward | Advantage)  # a select may declare marks, but it changes no row
    own = {mark for pattern in node.signature.outputs.values() for mark in pattern.marks if judges}
    own -= {implied for mark in own for implied in mark.implies}
    added = {name for mark in own for name in mark.columns}
    return rows.table.select(["id", *(name for name in names if name != "id" and (name in added or name not in known))])


def _frames(value: Any) -> list[Frame]:
    if isinstance(value, Frame):
        return [value]
    several = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [item for item in several if isinstance(item, Frame)]


def _metrics(node: Node, outputs: Mapping[str, Any], log: Log) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for value in outputs.values():
        if isinstance(value, Frame):
            metrics["rows"] = metrics.get("rows", 0.0) + len(value)
            if isinstance(node, Reward) and SCORED in value.marks:
                metrics.update(_reward_means(value))
        elif isinstance(value, Policy):
            metrics["version"] = float(value.version)
    return metrics | log.metrics


def _reward_means(rows: Frame) -> dict[str, float]:
    """The mean of the reward and of each of its terms over the rows that could be judged."""
    means = {}
    for name in rows.table.column_names:
        if name == "reward" or name.startswith("reward_"):
            values = rows.numpy(name)
            judged = values[values == values]
            if len(judged):
                means[name] = float(judged.mean())
    return means
