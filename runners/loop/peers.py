"""The peers of this process: prepare their nodes, make their carries, choose those that a checkpoint holds."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from genrl_graph.contract.node import Carry, Exchange, Source
from genrl_graph.contract.policy import Carried, TextPolicy
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ParamError, named
from genrl_graph.long_work import long_work
from genrl_graph.runners.loop.exchange import require_peers

Make = Callable[[Carry, str, int], Carried]
"""Return the value of a carry from its declaration, its name and the run's seed."""


@dataclass(slots=True)
class Peer:
    """One copy of the game: its own carries and its own task book.

    `values` holds the outputs of the round. `reasons` says why its rewards left rows unjudged, by row id; `excused` are
    the ids of those that only rows of other peers kept from being judged.
    """

    name: str
    carries: dict[str, Carried]
    tasks: TaskBook
    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    excused: set[str] = field(default_factory=set)

    @property
    def vocabularies(self) -> dict[str, int]:
        """The vocabulary size of each carried policy's tokenizer, by tokenizer fingerprint."""
        return {p.tokenizer_fingerprint: p.vocab_size for p in self.carries.values() if isinstance(p, TextPolicy)}


def declared_value(carry: Carry, name: str, seed: int) -> Carried:
    """Return the initial value that a carry declares."""
    return carry.init(name, seed=seed)


def peer_names(count: int) -> list[str]:
    """Return the names of the peers of one process: `peer0000`, `peer0001`, ..."""
    return [f"peer{at:04d}" for at in range(count)]


def require_enough(schedule: Schedule, names: Sequence[str]) -> None:
    """Raise `ExchangeTimeout` where an exchange wants more peers than play here."""
    for node in schedule.nodes.values():
        if isinstance(node, Exchange):
            require_peers(node, len(names), round=0)


def prepare(schedule: Schedule, *, known: Schedule | None = None, ready: Callable[[], None] = lambda: None) -> None:
    """Let every node load its data and functions, so that missing ones fail before a model is loaded.

    Nodes that are the same object in the schedule `known` are skipped. `ready` is called after each node and may raise
    to end the run. Errors name the node.
    """
    for name, node in schedule.nodes.items():
        if known is None or known.nodes.get(name) is not node:
            with named(f"nodes.{name}"), long_work(f"loading {name} ({node.type_name})"):
                node.prepare()
            ready()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector while models load: importing torch and transformers then takes a quarter less time.

    Imports create a million objects that stay alive, and each collection would visit them all.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def make_peers(
    schedule: Schedule,
    names: Sequence[str],
    *,
    seed: int,
    make: Make = declared_value,
    share: Callable[[Carry, Carried], Carried] = lambda carry, value: value,
    ready: Callable[[], None] = lambda: None,
) -> list[Peer]:
    """Make peers with equal carries: the value of a carry depends on run seed and carry name only.

    `share` returns a new value as this process plays with it. `ready` is called after each carry and may raise to end
    the run.
    """
    sources = {name: node for name, node in schedule.nodes.items() if isinstance(node, Source)}
    peers = []
    for name in names:
        carries = {}
        for carry, part in schedule.graph.carries.items():
            with named(f"carry.{carry}"), long_work(f"loading {carry} of {name}"), collector_paused():
                carries[carry] = share(part.carry, make(part.carry, carry, seed))
            ready()
        peers.append(Peer(name, carries, TaskBook(sources)))
    return peers


def refuse_unfit(peer: Peer, *schedules: Schedule) -> None:
    """Raise `ParamError` with every line of the nodes that say why a carried value cannot serve them.

    A node that is in several schedules is asked once, as it is in the first.
    """
    lines: list[str] = []
    asked = {name: (node, plan.graph) for plan in reversed(schedules) for name, node in plan.nodes.items()}
    for name, (node, graph) in asked.items():
        wires = {socket: wire for socket, wire in graph.nodes[name].inputs.items() if isinstance(wire, str)}
        begun = {socket: graph.begun_as(wire) for socket, wire in wires.items()}
        carries = {socket: peer.carries[name] for socket, name in begun.items() if name in peer.carries}
        lines += [f"nodes.{name}: {line}" for line in node.check_carries(carries)]
    if lines:
        raise ParamError("\n".join(lines))


def digests(peers: Sequence[Peer]) -> dict[tuple[str, str], str]:
    """Return the digest of every carry, by peer and carry name."""
    return {(peer.name, name): value.digest() for peer in peers for name, value in peer.carries.items()}


def changing_carries(schedule: Schedule, players: Sequence[Peer]) -> dict[str, dict[str, Carried]]:
    """Return the carries that a checkpoint holds, by peer and name: frozen ones are left out, the graph makes them."""
    changing = [name for name, part in schedule.graph.carries.items() if part.next is not None]
    return {player.name: {name: player.carries[name] for name in changing} for player in players}
