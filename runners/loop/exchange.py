"""How peers meet in exchange nodes: what a runner's swarm offers to the one loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from genrl_graph.contract.node import Exchange, Packet
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ExchangeTimeout


class PeerBehind(Exception):
    """The swarm is in a later round, `round`, and nobody is left to meet in the one that is played."""

    def __init__(self, round: int) -> None:
        super().__init__(f"the swarm is in round {round}")
        self.round = round


@dataclass(frozen=True, slots=True)
class Meeting:
    """What an exchange gave one peer: the packets in the order of the sorted peer names, and what is kept of it.

    `facts` go to the journal, `metrics` to the curves, `refusals` (columns) to the group `<exchange>/refusals`.
    """

    packets: tuple[Packet[Frame], ...]
    facts: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    refusals: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Swarm(Protocol):
    """The peers that play the same game, met only in exchanges."""

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Announce what `peer` offers; raises `PeerBehind` where the others have gone on without it."""

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> Meeting:
        """What the peers offered; raises `ExchangeTimeout` where too few did and the node says `on_short: fail`.

        Rows of others are judged by what this peer knows: its tasks, and how many ids each tokenizer has, by
        fingerprint. Raises `PeerBehind` where nobody will come any more.
        """

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Whether others wait for an offer of this round although this peer has closed the exchange before a cut."""


class LocalSwarm:
    """Peers of one process in lockstep: every offer of a step is there before the first of them closes it."""

    def __init__(self, peers: Sequence[str]) -> None:
        self._peers = sorted(peers)
        self._offers: dict[str, dict[str, Packet[Frame]]] = {}

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Keep the offer of one peer."""
        self._offers.setdefault(node.place.node, {})[peer] = Packet(peer, round, offer)

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> Meeting:
        """The offers of all peers; nobody can be late here, and nobody else can come."""
        require_peers(node, len(self._peers), round=round)
        offers = self._offers[node.place.node]
        return Meeting(tuple(offers[name] for name in self._peers))

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Never: all peers were cut together."""
        return False


class LoopbackSwarm:
    """No swarm at all: a peer that opens an exchange meets itself."""

    def __init__(self) -> None:
        self._offers: dict[tuple[str, str], Packet[Frame]] = {}

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Keep the offer for its own peer."""
        self._offers[node.place.node, peer] = Packet(peer, round, offer)

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> Meeting:
        """The own offer."""
        return Meeting((self._offers.pop((node.place.node, peer)),))

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Never."""
        return False


def require_peers(node: Exchange, present: int, *, round: int) -> None:
    """Raise `ExchangeTimeout` where a swarm that cannot grow is too small for an exchange."""
    if present < node.min_peers and node.on_short != "continue":
        name = node.place.node
        raise ExchangeTimeout(
            f"nodes.{name} (round {round}): wants {node.min_peers} peers, but {present} play here and no other can come"
            f"; set run.peers={node.min_peers} or nodes.{name}.params.min_peers={present}"
        )
