"""Exchanges in a swarm: a roster that is frozen when they open, rows fetched as they come, a deadline."""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from genrl_graph.contract.node import Exchange, Packet
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ExchangeTimeout, PeerRefused
from genrl_graph.runners.loop.exchange import Meeting, PeerBehind
from genrl_graph.runners.loop.signals import Stop
from genrl_graph.runners.swarm.admission.rules import Admission, of_one_shape
from genrl_graph.runners.swarm.admission.verdict import PAYLOAD, Admitted, RowRefusal, refusal_columns, refused_payload
from genrl_graph.runners.swarm.backoff import Backoff
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import MAX_INLINE, Inbox, Offer
from genrl_graph.runners.swarm.open_exchange import OpenExchange, Taken
from genrl_graph.runners.swarm.roster import RosterMember
from genrl_graph.runners.swarm.transport.streams import CUT_SHORT
from genrl_graph.wire.packet import encode

PAUSE_S = 0.05
TELL_S = 5.0


class PeerSwarm:
    """The exchanges of one peer. What is told of another peer is under its name; a name is that of one key.

    `admissions` judge what comes, by exchange in the order in which a round closes them.
    """

    def __init__(
        self,
        host: Host,
        inbox: Inbox,
        *,
        name: str,
        protocol: str,
        admissions: Mapping[str, Admission],
        staleness: int,
        sign: Callable[[bytes], bytes],
        stop: Stop,
        tell: Callable[[str], None],
    ) -> None:
        self._host, self._inbox, self._name, self._protocol = host, inbox, name, protocol
        self._admissions, self._staleness, self._order = admissions, staleness, list(admissions)
        self._sign, self._stop, self._tell = sign, stop, tell
        self._backoff = Backoff()
        self._opened: dict[str, OpenExchange] = {}
        self._served: list[Offer] = []
        self._taken: set[Taken] = set()
        self._met: set[str] = set()
        self._silent: dict[str, float] = {}  # peers that were late, and since when
        self._closed = 0
        inbox.watch = self._watch

    def resume(self, closed: int) -> None:
        """Go on with a run that has closed so many exchanges."""
        self._closed = closed
        if closed:
            round = (closed - 1) // len(self._order)
            self._inbox.begin(round)
            self._host.beat(round)

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Whether another peer may still wait for an exchange that this peer closed before a cut."""
        return self._is_closed(node, round) and round == (self._closed - 1) // len(self._order)

    def begin(self, round: int) -> None:
        """Tell the roster where this peer is; raises `PeerBehind` where most of the others are further."""
        self._host.beat(round)
        self._inbox.begin(round)
        self._give_up()
        here = {member.peer_id for member in self._others()}
        self._silent = {peer_id: since for peer_id, since in self._silent.items() if peer_id in here}
        oldest = round - 1 - self._staleness
        for offer in [offer for offer in self._served if offer.round < oldest]:
            self._host.forget(offer.key)
            self._host.forget(offer.announcement_key)
            self._served.remove(offer)
        self._taken -= {(peer_id, key) for peer_id, key in self._taken if int(key.partition("/")[0]) < oldest}
        if self._admissions:
            self._require_not_behind(round)

    def end(self, rounds: int) -> None:
        """Tell the roster that this peer needs nothing more."""
        self._host.beat(rounds)

    def is_needed(self, rounds: int) -> bool:
        """Whether a peer that was met last is not at the end yet."""
        return any(member.peer_id in self._met and self._round_of(member) < rounds for member in self._others())

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Wait for enough peers on the roster, freeze it, and announce the offer to it."""
        since, again = time.monotonic(), self._is_closed(node, round)
        members = [] if again else self._gathered(node, round, since)
        data = encode(offer, limits=node.limits)
        inline = data if len(data) <= MAX_INLINE else None
        own = Offer(peer, round, node.place.node, self._protocol, len(data), hashlib.sha256(data).hexdigest(), inline)
        announcement = own.announced(self._sign)
        self._host.serve(own.key, data)
        self._host.serve(own.announcement_key, announcement)
        self._served.append(own)
        if again:  # who still waits for it will ask
            return
        for member in members:
            self._host.push(member.peer_id, announcement, timeout_s=node.timeout_s)
        with self._inbox.changed:
            gathering = OpenExchange(self._host, self._inbox, node, offer, round=round, since=since, taken=self._taken)
            gathering.ask(members)
            self._opened[node.place.node] = gathering
        self._met = {member.peer_id for member in members}

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> Meeting:
        """Take what the frozen roster offers; who has not answered at the deadline is late."""
        if self._is_closed(node, round):
            return Meeting(())
        gathering = self._opened[node.place.node]
        while True:
            seen = self._inbox.count
            rounds = {member.peer_id: self._round_of(member) for member in self._others()}
            with self._inbox.changed:
                over = gathering.look(rounds)
            gathering.verify()
            if over and not self._is_short(gathering, node):
                break
            self._stop.check()
            self._inbox.wait(seen, timeout_s=PAUSE_S)
        with self._inbox.changed:
            del self._opened[node.place.node]
            gathering.end()
        for asked in gathering.asked:
            if asked.missing in ("late", "slow"):
                self._silent[asked.member.peer_id] = time.monotonic()
        if gathering.came < node.min_peers and node.on_short == "fail":
            told = ", ".join(f"{each.member.name} ({each.missing})" for each in gathering.asked if each.missing)
            came = f"wants {node.min_peers} peers within {node.timeout_s:g} s, but {gathering.came} came"
            raise ExchangeTimeout(f"{came}; missing: {told or 'nobody'}")
        received = self._received(gathering, node, tasks, vocabularies)
        return self._meeting(gathering, received)

    def _give_up(self) -> None:
        """End what a round that was left had open."""
        with self._inbox.changed:
            for gathering in self._opened.values():
                gathering.end()
            self._opened.clear()

    def _is_closed(self, node: Exchange, round: int) -> bool:
        """Whether this peer closed an exchange before it was cut."""
        return round * len(self._order) + self._order.index(node.place.node) < self._closed

    def _is_short(self, gathering: OpenExchange, node: Exchange) -> bool:
        """Whether too few came, and more are waited for: those who are here now are asked, also who was gone."""
        if gathering.came >= node.min_peers or node.on_short != "wait":
            return False
        self._require_not_behind(gathering.round)
        with self._inbox.changed:
            gathering.ask(self._in_reach(node, gathering.round))
        return True

    def _received(
        self, gathering: OpenExchange, node: Exchange, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> dict[str, tuple[int, Admitted]]:
        """What is admitted of the rows that came, with the round that they are of, in the order of the names."""
        announced: dict[str, int] = {}
        admitted: dict[str, Admitted] = {}
        for asked in sorted(gathering.asked, key=lambda asked: asked.member):
            if asked.data is not None and asked.offer is not None:
                name, announced[asked.member.name] = asked.member.name, asked.offer.round
                admitted[name] = self._admissions[node.place.node].receive(
                    asked.data,
                    like=gathering.rows,
                    sender=name,
                    announced=asked.offer.round,
                    round=gathering.round,
                    tasks=tasks,
                    vocabularies=vocabularies,
                )
        return {name: (announced[name], given) for name, given in of_one_shape(admitted).items()}

    def _meeting(self, gathering: OpenExchange, received: Mapping[str, tuple[int, Admitted]]) -> Meeting:
        """What the exchange gave, what was refused and who is missing."""
        round, own = gathering.round, gathering.rows
        refusals = [refusal for _, given in received.values() for refusal in given.refusals]
        refusals += self._refused(own, round)
        for name, (_, given) in received.items():
            self._backoff.note(name, round=round, misbehaved=given.misbehaved)
        for asked in gathering.asked:
            if asked.missing == "slow":
                self._backoff.note(asked.member.name, round=round, misbehaved=True)
        packets = [Packet(name, announced, given.rows) for name, (announced, given) in received.items()]
        missing = {asked.member.name: asked.missing for asked in gathering.asked if asked.missing}
        stale = {packet.peer: packet.round for packet in packets if packet.round != round}
        rows = sum(given.refused for _, given in received.values())
        return Meeting(
            tuple(sorted([*packets, Packet(self._name, round, own)], key=lambda packet: packet.peer)),
            {name: fact for name, fact in (("missing", missing), ("stale", stale)) if fact},
            {
                "late": float(sum(why in ("late", "slow") for why in missing.values())),
                "refused": float(rows + sum(refusal.row == PAYLOAD for refusal in refusals)),
            },
            refusal_columns(refusals),
        )

    def _refused(self, like: Frame, round: int) -> Iterator[RowRefusal]:
        """What of others was refused before it could be rows; who offends is not heard for a while."""
        for refused in self._inbox.refusals():
            name = self._known_as(refused.peer_id)
            if refused.offence:
                self._backoff.note(name, round=round, misbehaved=True)
            yield from refused_payload(name, like, PeerRefused(refused.reason)).refusals
        for told in self._host.take_refusals():
            if told.peer_id is not None and told.reason != CUT_SHORT:  # a peer that died did nothing wrong
                reason = told.reason if told.count == 1 else f"{told.reason} ({told.count} times)"
                yield from refused_payload(self._known_as(told.peer_id), like, PeerRefused(reason)).refusals

    def _gathered(self, node: Exchange, round: int, since: float) -> list[RosterMember]:
        """The members that this exchange is frozen to, once they are enough.

        Who was late is left out until it is heard again, and who offended until its time is over, as long as the
        others are enough.
        """
        told = False
        while True:
            seen, waited = self._inbox.count, time.monotonic() - since
            here = self._in_reach(node, round)
            heard = [member for member in here if not self._backoff.is_out(member.name, round=round)]
            awake = [member for member in heard if not self._is_silent(member)]
            is_over = waited >= node.timeout_s
            for members in (awake, heard, here)[: 3 if is_over else 2]:
                if len(members) + 1 >= node.min_peers:
                    return members
            if not told and waited >= TELL_S:
                told = True
                self._tell_who_is_here(node, round, here)
            if is_over and node.on_short == "continue":
                return here
            if is_over and node.on_short == "fail":
                what = f"wants {node.min_peers} peers within {node.timeout_s:g} s, but {len(here) + 1} are here"
                raise ExchangeTimeout(f"{what}; start more, or lower min_peers")
            self._require_not_behind(round)
            self._stop.check()
            self._inbox.wait(seen, timeout_s=PAUSE_S)

    def _tell_who_is_here(self, node: Exchange, round: int, members: Sequence[RosterMember]) -> None:
        here = ", ".join([self._name, *(member.name for member in members)])
        self._tell(f"nodes.{node.place.node} (round {round}): waits for {node.min_peers} peers; here: {here}")

    def _in_reach(self, node: Exchange, round: int) -> list[RosterMember]:
        """The others that come to this round, in the order of their names."""
        earliest = round - 1 - node.max_staleness
        return [member for member in self._others() if earliest <= self._round_of(member) <= round]

    def _is_silent(self, member: RosterMember) -> bool:
        """Whether a member that was late has not been heard since."""
        since = self._silent.get(member.peer_id)
        if since is not None and self._inbox.heard_at(member.peer_id) > since:
            del self._silent[member.peer_id]
            return False
        return since is not None

    def _watch(self, peer_id: str, offer: Offer) -> None:
        """Let rows come while this peer computes; called on the host's thread, under the inbox's lock."""
        gathering = self._opened.get(offer.node)
        if gathering is not None:
            gathering.announced(peer_id)

    def _others(self) -> list[RosterMember]:
        return [member for member in self._host.roster() if member.peer_id != self._host.peer_id]

    def _round_of(self, member: RosterMember) -> int:
        return max(member.round, self._inbox.round_of(member.peer_id))

    def _known_as(self, peer_id: str) -> str:
        return next((member.name for member in self._others() if member.peer_id == peer_id), peer_id)

    def _require_not_behind(self, round: int) -> None:
        """Most of the others are asked, not the one that is furthest: of several, one alone cannot pull the swarm."""
        others = [member for member in self._others() if not self._backoff.is_out(member.name, round=round)]
        rounds = [self._round_of(member) for member in others]
        if rounds and (there := int(statistics.median_low(rounds))) > round:
            raise PeerBehind(there)
