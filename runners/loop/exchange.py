"""The swarm as the loop sees it: open and close exchanges. Here: peers of one process, and a peer alone."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from genrl_graph.contract.node import Exchange, Packet
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ExchangeTimeout
from genrl_graph.store.notes_file import Waiting


class PeerBehind(Exception):
    """Raised when the other peers are in a later round, `round`, so that this one cannot be played with them."""

    def __init__(self, round: int) -> None:
        super().__init__(f"the swarm is in round {round}")
        self.round = round


@dataclass(frozen=True, slots=True)
class ExchangeResult:
    """The result of an exchange for one peer: packets sorted by peer name, and records of what happened.

    `facts` go to the journal, `metrics` to the metrics of the step, `refusals` (columns) to the group
    `<exchange>/refusals`.
    """

    packets: tuple[Packet[Frame], ...]
    facts: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    refusals: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Swarm(Protocol):
    """The peers that play the same game; they exchange rows in exchange nodes only.

    `trusted`: one user runs all of them, so the time that their rows take is not limited.
    """

    trusted: bool

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Announce the offer of `peer`; raises `PeerBehind` where the others are in a later round."""

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> ExchangeResult:
        """Wait for the offers of the peers and return those that are admitted.

        Rows of other peers are checked against the `tasks` of this peer and `vocabularies`, the number of token ids by
        tokenizer fingerprint. Raises `ExchangeTimeout` where too few peers offer and the node says `on_short: fail`,
        `PeerBehind` where the others are in a later round.
        """

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Return whether others still wait for this peer's offer, although a previous run closed the exchange."""

    def judged(self, *, round: int, seconds: Mapping[str, float], offenders: Collection[str]) -> None:
        """Take note of the time that a step spent on rows of other peers.

        `offenders` are those whose time ended, or whose rows made the node raise.
        """


class LocalSwarm:
    """The peers of one process, in lockstep: all have opened an exchange before the first closes it."""

    trusted = True

    def __init__(self, peers: Sequence[str]) -> None:
        self._peers = sorted(peers)
        self._offers: dict[str, dict[str, Packet[Frame]]] = {}

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Store the offer of one peer."""
        self._offers.setdefault(node.place.node, {})[peer] = Packet(peer, round, offer)

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> ExchangeResult:
        """Return the offers of all peers; raises `ExchangeTimeout` where the exchange wants more of them."""
        require_peers(node, len(self._peers), round=round)
        offers = self._offers[node.place.node]
        return ExchangeResult(tuple(offers[name] if name == peer else _as_sent(offers[name]) for name in self._peers))

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Return False: all peers are interrupted together."""
        return False

    def judged(self, *, round: int, seconds: Mapping[str, float], offenders: Collection[str]) -> None:
        """Do nothing: the peers are one process."""


class LoopbackSwarm:
    """A swarm of one: each peer gets back its own offer."""

    trusted = True

    def __init__(self) -> None:
        self._offers: dict[tuple[str, str], Packet[Frame]] = {}

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Store the offer for its own peer."""
        self._offers[node.place.node, peer] = Packet(peer, round, offer)

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> ExchangeResult:
        """Return the peer's own offer."""
        return ExchangeResult((self._offers.pop((node.place.node, peer)),))

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Return False: nobody else waits."""
        return False

    def judged(self, *, round: int, seconds: Mapping[str, float], offenders: Collection[str]) -> None:
        """Do nothing: there are no others."""


def _as_sent(packet: Packet[Frame]) -> Packet[Frame]:
    """Return a packet as another peer receives it: without local columns."""
    return replace(packet, rows=packet.rows.without_local())


def require_peers(node: Exchange, present: int, *, round: int) -> None:
    """Raise `ExchangeTimeout` where `present` peers are too few for an exchange and no other can join."""
    if present < node.min_peers and node.on_short != "continue":
        name = node.place.node
        raise ExchangeTimeout(
            f"nodes.{name} (round {round}): wants {node.min_peers} peers, but {present} play here and no other can come"
            f"; set run.peers={node.min_peers} or nodes.{name}.params.min_peers={present}"
        )


FIRST_TOLD_S = 5.0
"""Seconds of waiting after which a peer says for whom."""


class WaitReport:
    """Tells whom an exchange waits for: after five seconds of waiting, then after ten, twenty and so on.

    `since` is the monotonic time at which the exchange opened, from which its `timeout_s` counts.
    """

    def __init__(self, node: Exchange, tell: Callable[[str], None], *, since: float) -> None:
        self._node, self._tell, self._since = node, tell, since
        self._began, self._next_s = time.monotonic(), FIRST_TOLD_S

    def waiting(self, whom: Callable[[], str]) -> None:
        """Tell `whom()` this waits for, if it is time to."""
        now = time.monotonic()
        if now - self._began >= self._next_s:
            self._next_s *= 2
            name, spent = self._node.place.node, now - self._since
            self._tell(str(Waiting(name, whom() or "nobody", spent, self._node.timeout_s)))

    def closed(self, without: Sequence[str]) -> None:
        """Tell which peers gave nothing, if any."""
        if without:
            self._tell(f"{self._node.place.node}: closed without {', '.join(without)}")
