"""Exchanges in a swarm: a roster that is frozen when they open, rows fetched as they come, a deadline."""

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from genrl_graph.errors import ExchangeTimeout, PeerRefused
from genrl_graph.frames import Frame
from genrl_graph.node import Exchange, Packet
from genrl_graph.resources import TaskBook
from genrl_graph.runners.admission import Admission, of_one_shape
from genrl_graph.runners.backoff import Backoff
from genrl_graph.runners.meet import Behind, Meeting
from genrl_graph.runners.signals import Stop
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import MAX_INLINE, Inbox, Offer
from genrl_graph.runners.swarm.roster import Member
from genrl_graph.runners.verdict import Admitted, refusal_columns, refused_payload
from genrl_graph.wire import encode

PAUSE_S = 0.05
RETRY_S = 0.5
TELL_S = 5.0


@dataclass(slots=True)
class _Asked:
    """A member of a frozen roster: what it announced, and its rows on their way."""

    member: Member
    offer: Offer | None = None
    fetching: "Future[bytes] | None" = None
    data: bytes | None = None
    missing: str = ""
    again_at: float = 0.0
    until: float = math.inf

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to come."""
        return self.data is not None or bool(self.missing)


@dataclass(slots=True)
class _Open:
    """An exchange that this peer has opened."""

    round: int
    rows: Frame
    own: Offer
    asked: list[_Asked]
    since: float
    told: "dict[str, Future[None]]" = field(default_factory=dict)


class PeerSwarm:
    """The exchanges of one peer. What is told of another peer is under its name; a name is that of one key."""

    def __init__(
        self,
        host: Host,
        inbox: Inbox,
        *,
        name: str,
        protocol: str,
        admissions: Mapping[str, Admission],
        stop: Stop,
        sign: Callable[[bytes], bytes],
        staleness: int,
        tell: Callable[[str], None],
    ) -> None:
        self._host, self._inbox, self._name, self._protocol = host, inbox, name, protocol
        self._admissions, self._stop, self._sign, self._staleness = admissions, stop, sign, staleness
        self._tell_user = tell
        self._backoff = Backoff()
        self._opened: dict[str, _Open] = {}
        self._served: list[Offer] = []
        self._taken: set[tuple[str, str]] = set()
        self._met: set[str] = set()

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Never: who was cut is waited for until the deadline, and then late."""
        return False

    def begin(self, round: int) -> None:
        """Tell the roster where this peer is; raises `Behind` where most of the others are further."""
        self._host.beat(round)
        self._inbox.begin(round, staleness=self._staleness)
        for offer in [offer for offer in self._served if offer.round < round - 1 - self._staleness]:
            self._host.forget(offer.key)
            self._served.remove(offer)
        self._taken = {taken for taken in self._taken if int(taken[1].partition("/")[0]) >= round - 1 - self._staleness}
        self._require_not_behind(round)

    def end(self, rounds: int) -> None:
        """Tell the roster that this peer needs nothing more."""
        self._host.beat(rounds)

    def is_needed(self, rounds: int) -> bool:
        """Whether a peer that was met last is not at the end yet."""
        return any(member.peer_id in self._met and self._round_of(member) < rounds for member in self._others())

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Wait for enough peers on the roster, freeze it, and announce the offer to it."""
        since = time.monotonic()
        members = self._gathered(node, round, since)
        data = encode(offer, limits=node.limits)
        inline = data if len(data) <= MAX_INLINE else None
        own = Offer(peer, round, node.place.node, self._protocol, len(data), hashlib.sha256(data).hexdigest(), inline)
        if inline is None:
            self._host.serve(own.key, data)
            self._served.append(own)
        opened = _Open(round, offer, own, [_Asked(member) for member in members], since)
        self._opened[node.place.node] = opened
        self._met = {member.peer_id for member in members}
        for asked in opened.asked:
            self._tell(opened, asked.member.peer_id)

    def greet(self, peer_id: str, offer: Offer) -> None:
        """Answer a peer that announces to an exchange that was opened before it was known; called by the host."""
        opened = self._opened.get(offer.node)
        if opened is not None and opened.round == offer.round and peer_id not in opened.told:
            self._tell(opened, peer_id)

    def close(self, node: Exchange, *, round: int, peer: str, tasks: TaskBook) -> Meeting:
        """Take what the frozen roster offers; who has not answered at the deadline is late."""
        opened = self._opened[node.place.node]
        deadline = opened.since + node.timeout_s
        while not self._is_over(opened, node, deadline):
            self._stop.check()
            with self._inbox.changed:
                self._inbox.changed.wait(PAUSE_S)
        del self._opened[node.place.node]
        here = [asked for asked in opened.asked if asked.data is not None]
        if len(here) + 1 < node.min_peers and node.on_short == "fail":
            raise ExchangeTimeout(
                f"wants {node.min_peers} peers within {node.timeout_s:g} s, but {len(here) + 1} came; "
                f"{_listed('missing', [a for a in opened.asked if a.data is None])}"
            )
        return self._meeting(opened, node, round, tasks)

    def _meeting(self, opened: _Open, node: Exchange, round: int, tasks: TaskBook) -> Meeting:
        """Look at what came, in the order of the names, and tell what was refused and who is missing."""
        received: dict[str, Admitted] = {}
        announced: dict[str, int] = {self._name: round}
        for asked in sorted(opened.asked, key=lambda asked: asked.member.name):
            if asked.data is not None and asked.offer is not None:
                name, announced[name] = asked.member.name, asked.offer.round
                received[name] = self._admissions[node.place.node].receive(
                    asked.data, like=opened.rows, sender=name, announced=announced[name], round=round, tasks=tasks
                )
        received = of_one_shape(received)
        refusals = [refusal for admitted in received.values() for refusal in admitted.refusals]
        refused = sum(admitted.refused for admitted in received.values())
        for peer_id, _, reason in self._inbox.refusals():
            told = refused_payload(self._known_as(peer_id), opened.rows, PeerRefused(reason))
            refusals += told.refusals
            refused += told.refused
            self._backoff.note(self._known_as(peer_id), round=round, misbehaved=True)
        for name, admitted in received.items():
            self._backoff.note(name, round=round, misbehaved=admitted.misbehaved)
        frames = {self._name: opened.rows, **{name: admitted.rows for name, admitted in received.items()}}
        missing = {asked.member.name: asked.missing for asked in opened.asked if asked.data is None}
        stale = {name: at for name, at in announced.items() if at != round}
        return Meeting(
            tuple(Packet(name, announced[name], frames[name]) for name in sorted(frames)),
            {name: value for name, value in (("missing", missing), ("stale", stale)) if value},
            {"late": float(sum(why == "late" for why in missing.values())), "refused": float(refused)},
            refusal_columns(refusals),
        )

    def _gathered(self, node: Exchange, round: int, since: float) -> list[Member]:
        """The members that this exchange is frozen to: all that are about to play it, once they are enough."""
        told = False
        while True:
            members = self._present(node, round)
            if len(members) + 1 >= node.min_peers:
                return members
            if not told and time.monotonic() - since >= TELL_S:
                told = True
                present = ", ".join([self._name, *(member.name for member in members)])
                self._tell_user(
                    f"nodes.{node.place.node} (round {round}): waits for {node.min_peers} peers; here: {present}"
                )
            if time.monotonic() - since >= node.timeout_s and node.on_short != "wait":
                if node.on_short == "continue":
                    return members
                what = f"wants {node.min_peers} peers within {node.timeout_s:g} s, but {len(members) + 1} are here"
                raise ExchangeTimeout(f"{what}; start more, or lower min_peers")
            self._require_not_behind(round)
            self._stop.check()
            with self._inbox.changed:
                self._inbox.changed.wait(PAUSE_S)

    def _present(self, node: Exchange, round: int) -> list[Member]:
        """The others that come to this round, in the order of their names."""
        earliest = round - 1 - node.max_staleness
        return [
            member
            for member in self._others()
            if earliest <= self._round_of(member) <= round and not self._backoff.is_out(member.name, round=round)
        ]

    def _is_over(self, opened: _Open, node: Exchange, deadline: float) -> bool:
        now = time.monotonic()
        present = {member.peer_id: member for member in self._others()}
        for asked in opened.asked:
            if not asked.settled:
                self._look(opened, node, asked, present, now)
            if not asked.settled and now >= deadline and asked.until == math.inf:
                self._take_stale(node, opened, asked, now)
        waiting = [asked for asked in opened.asked if not asked.settled and now < max(deadline, asked.until)]
        if waiting:
            return False
        came = 1 + sum(asked.data is not None for asked in opened.asked)
        if came < node.min_peers and node.on_short == "wait":
            self._require_not_behind(opened.round)
            self._invite(node, opened)
            return False
        for asked in opened.asked:
            if not asked.settled:
                asked.missing = "late"
        return True

    def _look(self, opened: _Open, node: Exchange, asked: _Asked, present: Mapping[str, Member], now: float) -> None:
        """See what has come of one member, and ask for what has not."""
        peer_id = asked.member.peer_id
        if asked.offer is None:
            asked.offer = self._inbox.find(opened.own.node, opened.round, peer_id)
        if asked.offer is not None:
            self._fetch(node, asked, now)
        elif peer_id not in present:
            asked.missing = "gone"
        elif self._round_of(present[peer_id]) > opened.round:
            asked.missing = "ahead"
        elif _failed(opened.told.get(peer_id)) and now >= asked.again_at:
            asked.again_at = now + RETRY_S
            self._tell(opened, peer_id)

    def _fetch(self, node: Exchange, asked: _Asked, now: float) -> None:
        assert asked.offer is not None
        most = node.limits.max_payload_bytes
        if asked.offer.size > most:
            self._refuse(asked, f"size: announces {asked.offer.size} bytes, max_payload_mb allows {most}")
        elif asked.offer.inline is not None:
            self._check(asked, asked.offer.inline)
        elif asked.fetching is None and now >= asked.again_at:
            offer = asked.offer
            asked.fetching = self._host.fetch(
                asked.member.peer_id, offer.key, max_bytes=offer.size, timeout_s=node.timeout_s
            )
            asked.fetching.add_done_callback(lambda _: self._wake())
        elif asked.fetching is not None and asked.fetching.done():
            if (error := asked.fetching.exception()) is None:
                self._check(asked, asked.fetching.result())
            elif isinstance(error, PeerRefused):
                self._refuse(asked, str(error))
            else:
                asked.fetching, asked.again_at = None, now + RETRY_S

    def _check(self, asked: _Asked, data: bytes) -> None:
        assert asked.offer is not None
        if hashlib.sha256(data).hexdigest() != asked.offer.sha256:
            self._refuse(asked, "sha256: the rows are not those that were announced")
        else:
            asked.data = data
            self._taken.add((asked.member.peer_id, asked.offer.key))

    def _refuse(self, asked: _Asked, reason: str) -> None:
        asked.missing = "refused"
        with self._inbox.changed:
            self._inbox.refuse(asked.member.peer_id, reason)

    def _take_stale(self, node: Exchange, opened: _Open, asked: _Asked, now: float) -> None:
        """Of a member that did not come, take the rows of an earlier round that were not taken before."""
        asked.until = now
        for round in range(opened.round - 1, opened.round - 1 - node.max_staleness, -1):
            offer = self._inbox.find(opened.own.node, round, asked.member.peer_id)
            if asked.offer is None and offer is not None and (asked.member.peer_id, offer.key) not in self._taken:
                asked.offer, asked.until = offer, now + node.timeout_s
                self._fetch(node, asked, now)

    def _invite(self, node: Exchange, opened: _Open) -> None:
        """Too few came: ask those who are here now, also those who were gone."""
        known = {asked.member.peer_id: asked for asked in opened.asked}
        for member in self._present(node, opened.round):
            asked = known.get(member.peer_id)
            if asked is None or asked.missing == "gone":
                opened.asked = [a for a in opened.asked if a is not asked] + [_Asked(member)]
                self._tell(opened, member.peer_id)

    def _tell(self, opened: _Open, peer_id: str) -> None:
        opened.told[peer_id] = self._host.push(peer_id, self._sign(opened.own.to_bytes()))

    def _wake(self) -> None:
        with self._inbox.changed:
            self._inbox.changed.notify_all()

    def _others(self) -> list[Member]:
        return [member for member in self._host.roster() if member.peer_id != self._host.peer_id]

    def _round_of(self, member: Member) -> int:
        return max(member.round, self._inbox.heard.get(member.peer_id, -1))

    def _known_as(self, peer_id: str) -> str:
        return next((member.name for member in self._others() if member.peer_id == peer_id), peer_id)

    def _require_not_behind(self, round: int) -> None:
        """Most of the others are asked, not the one that is furthest: a single peer cannot pull the swarm."""
        rounds = [self._round_of(member) for member in self._others()]
        if rounds and (there := int(statistics.median_low(rounds))) > round:
            raise Behind(there)


def _failed(push: "Future[None] | None") -> bool:
    return push is not None and push.done() and push.exception() is not None


def _listed(what: str, asked: Sequence[_Asked]) -> str:
    return f"{what}: {', '.join(f'{each.member.name} ({each.missing})' for each in asked) or 'nobody'}"
