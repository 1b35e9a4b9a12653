"""How peers meet in exchange nodes: what a runner's swarm offers to the one loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from genrl_graph.errors import ExchangeTimeout
from genrl_graph.frames import Frame
from genrl_graph.node import Exchange, Packet


@dataclass(frozen=True, slots=True)
class Meeting:
    """What an exchange gave one peer: the packets in the order of the sorted peer names, and facts for the journal."""

    packets: tuple[Packet[Frame], ...]
    facts: Mapping[str, object] = field(default_factory=dict)


class Swarm(Protocol):
    """The peers that play the same game, met only in exchanges."""

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Announce what `peer` offers; returns at once."""

    def close(self, node: Exchange, *, round: int, peer: str) -> Meeting:
        """What the peers offered; raises `ExchangeTimeout` where too few did and the node says `on_short: fail`."""


class LocalSwarm:
    """Peers of one process in lockstep: every offer of a step is there before the first of them closes it."""

    def __init__(self, peers: Sequence[str]) -> None:
        self._peers = sorted(peers)
        self._offers: dict[str, dict[str, Packet[Frame]]] = {}

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Keep the offer of one peer."""
        self._offers.setdefault(node.place.node, {})[peer] = Packet(peer, round, offer)

    def close(self, node: Exchange, *, round: int, peer: str) -> Meeting:
        """The offers of all peers; nobody can be late here, and nobody else can come."""
        require_peers(node, len(self._peers), round=round)
        offers = self._offers[node.place.node]
        return Meeting(tuple(offers[name] for name in self._peers))


class Alone:
    """No swarm at all: a peer that opens an exchange meets itself."""

    def __init__(self) -> None:
        self._offers: dict[tuple[str, str], Packet[Frame]] = {}

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Keep the offer for its own peer."""
        self._offers[node.place.node, peer] = Packet(peer, round, offer)

    def close(self, node: Exchange, *, round: int, peer: str) -> Meeting:
        """The own offer."""
        return Meeting((self._offers.pop((node.place.node, peer)),))


def require_peers(node: Exchange, present: int, *, round: int) -> None:
    """Raise `ExchangeTimeout` where a swarm that cannot grow is too small for an exchange."""
    if present < node.min_peers and node.on_short != "continue":
        name = node.place.node
        raise ExchangeTimeout(
            f"nodes.{name} (round {round}): wants {node.min_peers} peers, but {present} play here and no other can come"
            f"; set run.peers={node.min_peers} or nodes.{name}.params.min_peers={present}"
        )
