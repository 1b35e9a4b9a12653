"""Claims: the rounds in which other peers say they are, believed as far as the rows that they serve prove it."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from genrl_graph.contract.node import Exchange, Source
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import PeerRefused, SwarmError
from genrl_graph.runners.loop.runner import exchanges
from genrl_graph.runners.swarm.admission.rules import Admission, makers
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import MAX_ANNOUNCEMENT, Offer, newest_key
from genrl_graph.runners.swarm.roster import RosterMember

ANNOUNCEMENT_S = 10.0
MOST_INQUIRIES = 32  # peers that are asked at a time
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 600.0
MOST_WEIGHT = 64  # rounds that a peer has served, beyond which its word does not gain


@dataclass(frozen=True, slots=True)
class Proof:
    """Means to check an offer of a round that this peer has not reached: an exchange, and rows like its own.

    `admission` returns fresh rules, which remember nothing of an offer that is only looked at.
    """

    node: Exchange
    like: Frame
    admission: Callable[[], Admission]
    tasks: TaskBook
    protocol: str


def proof_of(schedule: Schedule) -> Proof | None:
    """Return what is needed to check offers to the first exchange that exchanges rows, None if there is none."""
    sources = {name: node for name, node in schedule.nodes.items() if isinstance(node, Source)}
    for name, node in exchanges(schedule).items():
        part = schedule.graph.nodes[name]
        kinds = {edge.ref: schedule.types[edge.ref] for edge in part.edges()}
        if all(issubclass(kind.base, Frame) for kind in kinds.values()):
            rows = {ref: kind.base.empty(marks=kind.marks) for ref, kind in kinds.items()}  # type: ignore[attr-defined]
            like = node.offer(**part.bind(rows))  # type: ignore[attr-defined]  # checked at definition
            admission = partial(Admission, node, makers(schedule, name))
            return Proof(node, like, admission, TaskBook(sources), schedule.protocol)
    return None


class _Inquiry:
    """Fetches and checks the rows that a peer offers now.

    Rows of the round in its heartbeat may no longer be served: where rounds are short, a heartbeat is rounds old.
    """

    def __init__(self, host: Host, proof: Proof, member: RosterMember) -> None:
        self._host, self._proof, self._member = host, proof, member
        self._offer: Offer | None = None
        self.proved = -1  # the round of which the peer has served good rows
        key = newest_key(proof.node.place.node)
        self._coming = host.fetch(member.peer_id, key, max_bytes=MAX_ANNOUNCEMENT, timeout_s=ANNOUNCEMENT_S)

    def step(self) -> bool:
        """Go on without waiting; returns whether the inquiry has ended."""
        if not self._coming.done():
            return False
        error = self._coming.exception()
        if error is not None:
            if not isinstance(error, SwarmError | PeerRefused):
                raise error
            return True
        data: bytes | bytearray = self._coming.result()
        if self._offer is None:
            self._offer = self._announced(data)
            if self._offer is None:
                return True
            if self._offer.inline is None:
                self._coming = self._rows_of(self._offer)
                return False
            data = self._offer.inline
        if self._is_good(self._offer, data):
            self.proved = self._offer.round
        return True

    def end(self) -> None:
        """Cancel what is still coming."""
        self._coming.cancel()

    def _rows_of(self, offer: Offer) -> "Future[bytearray]":
        timeout_s = self._proof.node.timeout_s
        return self._host.fetch(self._member.peer_id, offer.key, max_bytes=offer.size, timeout_s=timeout_s)

    def _announced(self, data: bytes | bytearray) -> Offer | None:
        """Return the offer of an announcement, None if it is not one of this peer to this exchange."""
        try:
            author, offer = Offer.from_announcement(bytes(data))
        except PeerRefused:
            return None
        node, member = self._proof.node, self._member
        said = (author, offer.peer, offer.node, offer.protocol)
        if said != (member.peer_id, member.claimed, node.place.node, self._proof.protocol):
            return None
        return offer if offer.size <= node.limits.max_payload_bytes else None

    def _is_good(self, offer: Offer, data: bytes | bytearray) -> bool:
        if hashlib.sha256(data).hexdigest() != offer.sha256:
            return False
        proof, round = self._proof, offer.round
        admitted = proof.admission().receive(
            data, like=proof.like, sender=offer.peer, announced=round, round=round, tasks=proof.tasks
        )
        return len(admitted.rows) > 0 and not admitted.misbehaved


@dataclass(slots=True)
class _Word:
    """Record of one peer: the last round of which it served good rows, and the number of such rounds."""

    proved: int = -1
    served: int = 0
    again_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    inquiry: _Inquiry | None = None


class Claims:
    """Decides whether the swarm is in a later round than this peer.

    A peer that says it is in this round or an earlier one is believed. One that claims a later round counts only with
    good rows that it serves: it is in their round, or in the one after it if it says so. The rounds are weighted by how
    many rounds a peer has served here, and the median counts: heartbeats move nobody, and newcomers cannot outvote
    those who have played along.
    """

    def __init__(self, host: Host, proof: Proof | None) -> None:
        self._host, self._proof = host, proof
        self._words: dict[str, _Word] = {}
        self.patience = True  # until an exchange has closed, or its time has passed

    @property
    def asking(self) -> bool:
        """Return whether rows that would prove a claim are still on their way."""
        return any(word.inquiry is not None for word in self._words.values())

    def step(self) -> None:
        """Go on with the inquiries, without waiting: rows of a round are served for a short time only."""
        for word in self._words.values():
            if word.inquiry is not None and word.inquiry.step():
                if word.inquiry.proved > word.proved:
                    word.proved, word.pause_s, word.again_at = word.inquiry.proved, FIRST_PAUSE_S, 0.0
                word.inquiry = None

    def served(self, peer_id: str, *, round: int) -> None:
        """Note that a peer delivered good rows of a round."""
        word = self._words.setdefault(peer_id, _Word())
        word.served += word.proved < round
        word.proved = max(word.proved, round)

    def has_served(self, peer_id: str) -> bool:
        """Return whether a peer has delivered good rows in time."""
        return peer_id in self._words and self._words[peer_id].served > 0

    def later_round(self, claims: Mapping[RosterMember, int], *, round: int) -> int | None:
        """Return the round in which the swarm is, if it is later than `round`; `claims` are those of the others.

        Rows that prove claims are fetched meanwhile: ask again while `asking`. Once `patience` has ended, peers that
        are not ahead count only if they have served, so heartbeats of invented peers hold nobody back either.
        """
        self._forget({member.peer_id for member in claims})
        believed = [
            (claim, self.weight(member))
            for member, claim in claims.items()
            if claim <= round and (self.patience or self.has_served(member.peer_id))
        ]
        later = {member: claim for member, claim in claims.items() if claim > round}
        if not later or _median([*believed, *((claim, self.weight(m)) for m, claim in later.items())]) <= round:
            return None
        self._inquire(later, round)
        for member, claim in later.items():
            if (proved := self._proved(member)) >= round:
                believed.append((min(max(claim, proved), proved + 1), self.weight(member)))
        there = _median(believed) if believed else round
        return there if there > round else None

    def _proved(self, member: RosterMember) -> int:
        return self._words[member.peer_id].proved if member.peer_id in self._words else -1

    def weight(self, member: RosterMember) -> int:
        """Return how much the word of a peer counts: 1, and 1 more for each round that it has served."""
        word = self._words.get(member.peer_id)
        return 1 + min(word.served if word is not None else 0, MOST_WEIGHT)

    def _forget(self, here: set[str]) -> None:
        """Keep the words of peers that are here, and of those that have served."""
        for peer_id, word in list(self._words.items()):
            if peer_id not in here and word.inquiry is not None:
                word.inquiry.end()
                word.inquiry = None
            if peer_id not in here and not word.served:
                del self._words[peer_id]

    def _inquire(self, claims: Mapping[RosterMember, int], round: int) -> None:
        """Ask those that claim a later round than they have proved, each again after growing pauses."""
        if self._proof is None:
            return
        now = time.monotonic()
        asked = sum(word.inquiry is not None for word in self._words.values())
        for member, claim in claims.items():
            word = self._words.setdefault(member.peer_id, _Word())
            is_due = word.inquiry is None and claim > max(round, word.proved + 1) and now >= word.again_at
            if is_due and asked < MOST_INQUIRIES:
                asked += 1
                word.again_at, word.pause_s = now + word.pause_s, min(2 * word.pause_s, LONGEST_PAUSE_S)
                word.inquiry = _Inquiry(self._host, self._proof, member)
        self.step()


def _median(rounds: Sequence[tuple[int, int]]) -> int:
    """Return the lower weighted median of (round, weight) pairs."""
    total, below = sum(weight for _, weight in rounds), 0
    for round, weight in sorted(rounds):
        below += weight
        if 2 * below >= total:
            return round
    raise AssertionError("no rounds")
