"""Exchanges in a swarm: each freezes its roster when it opens, and fetches rows until its deadline."""

import hashlib
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

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
    """The exchanges of one peer. Peers are reported by name; each name maps to one key.

    `admissions` check the rows received, by exchange, in the order in which a round closes the exchanges.
    """

    trusted = False

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
        """Resume a run that has already closed `closed` exchanges."""
        self._closed = closed
        if closed:
            round = (closed - 1) // len(self._order)
            self._inbox.begin(round)
            self._host.beat(round)

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Return whether other peers may still wait for an exchange that this peer closed before it was interrupted."""
        return self._is_closed(node, round) and round == (self._closed - 1) // len(self._order)

    def judged(self, *, round: int, seconds: Mapping[str, float], over_budget: Collection[str]) -> None:
        """Let peers back off whose rows took all of their time."""
        for name in over_budget:
            self._backoff.note(name, round=round, misbehaved=True)

    def begin(self, round: int) -> None:
        """Announce the round and forget old offers; raises `PeerBehind` if most of the others are in a later round."""
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
        """Announce that this peer has finished all rounds."""
        self._host.beat(rounds)

    def is_needed(self, rounds: int) -> bool:
        """Return whether a member of the last exchange has not finished yet."""
        return any(member.peer_id in self._met and self._round_of(member) < rounds for member in self._others())

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Wait for enough peers, freeze the roster, and announce the offer to its members."""
        since, again = time.monotonic(), self._is_closed(node, round)
        members = [] if again else self._wait_for_members(node, round, since)
        data = encode(offer, limits=node.limits)
        inline = data if len(data) <= MAX_INLINE else None
        own = Offer(peer, round, node.place.node, self._protocol, len(data), hashlib.sha256(data).hexdigest(), inline)
        announcement = own.announced(self._sign)
        self._host.serve(own.key, data)
        self._host.serve(own.announcement_key, announcement)
        self._served.append(own)
        if again:  # peers that still wait for it will pull it
            return
        for member in members:
            self._host.push(member.peer_id, announcement, timeout_s=node.timeout_s)
        with self._inbox.changed:
            exchange = OpenExchange(self._host, self._inbox, node, offer, round=round, since=since, taken=self._taken)
            exchange.ask(members)
            self._opened[node.place.node] = exchange
        self._met = {member.peer_id for member in members}

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> Meeting:
        """Receive and admit the rows of the frozen roster, until all have come or the deadline has passed."""
        if self._is_closed(node, round):
            return Meeting(())
        exchange = self._opened[node.place.node]
        while True:
            seen = self._inbox.count
            rounds = {member.peer_id: self._round_of(member) for member in self._others()}
            with self._inbox.changed:
                over = exchange.look(rounds)
            exchange.verify()
            if over and not self._is_short(exchange, node):
                break
            self._stop.check()
            self._inbox.wait(seen, timeout_s=PAUSE_S)
        with self._inbox.changed:
            del self._opened[node.place.node]
            exchange.end()
        for asked in exchange.asked:
            if asked.missing in ("late", "slow"):
                self._silent[asked.member.peer_id] = time.monotonic()
        if exchange.came < node.min_peers and node.on_short == "fail":
            missing = ", ".join(f"{each.member.name} ({each.missing})" for each in exchange.asked if each.missing)
            came = f"wants {node.min_peers} peers within {node.timeout_s:g} s, but {exchange.came} came"
            raise ExchangeTimeout(f"{came}; missing: {missing or 'nobody'}")
        received = self._admit(exchange, node, tasks, vocabularies)
        return self._result(exchange, received)

    def _give_up(self) -> None:
        """End the exchanges that an abandoned round left open."""
        with self._inbox.changed:
            for exchange in self._opened.values():
                exchange.end()
            self._opened.clear()

    def _is_closed(self, node: Exchange, round: int) -> bool:
        """Return whether this peer closed an exchange before it was interrupted."""
        return round * len(self._order) + self._order.index(node.place.node) < self._closed

    def _is_short(self, exchange: OpenExchange, node: Exchange) -> bool:
        """Return whether to keep waiting for more peers; if so, ask those that are here now, also returned ones."""
        if exchange.came >= node.min_peers or node.on_short != "wait":
            return False
        self._require_not_behind(exchange.round)
        with self._inbox.changed:
            exchange.ask(self._in_reach(node, exchange.round))
        return True

    def _admit(
        self, exchange: OpenExchange, node: Exchange, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> dict[str, tuple[int, Admitted]]:
        """Admit the received rows; returns them by peer name, sorted, each with the round of its offer."""
        announced: dict[str, int] = {}
        admitted: dict[str, Admitted] = {}
        for asked in sorted(exchange.asked, key=lambda asked: asked.member):
            if asked.data is not None and asked.offer is not None:
                name, announced[asked.member.name] = asked.member.name, asked.offer.round
                admitted[name] = self._admissions[node.place.node].receive(
                    asked.data,
                    like=exchange.rows,
                    sender=name,
                    announced=asked.offer.round,
                    round=exchange.round,
                    tasks=tasks,
                    vocabularies=vocabularies,
                )
        return {name: (announced[name], packet) for name, packet in of_one_shape(admitted).items()}

    def _result(self, exchange: OpenExchange, received: Mapping[str, tuple[int, Admitted]]) -> Meeting:
        """Build the result of an exchange: its packets, refusals and missing members; updates the back-off."""
        round, own = exchange.round, exchange.rows
        refusals = [refusal for _, packet in received.values() for refusal in packet.refusals]
        refusals += self._refused(own, round)
        for name, (_, packet) in received.items():
            self._backoff.note(name, round=round, misbehaved=packet.misbehaved)
        for asked in exchange.asked:
            if asked.missing == "slow":
                self._backoff.note(asked.member.name, round=round, misbehaved=True)
        packets = [Packet(name, announced, admitted.rows) for name, (announced, admitted) in received.items()]
        missing = {asked.member.name: asked.missing for asked in exchange.asked if asked.missing}
        stale = {packet.peer: packet.round for packet in packets if packet.round != round}
        rows = sum(admitted.refused for _, admitted in received.values())
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
        """Yield refusals of announcements and messages that never became rows; offenders enter the back-off."""
        for refused in self._inbox.refusals():
            name = self._known_as(refused.peer_id)
            if refused.offence:
                self._backoff.note(name, round=round, misbehaved=True)
            yield from refused_payload(name, like, PeerRefused(refused.reason)).refusals
        for message in self._host.take_refusals():
            if message.peer_id is not None and message.reason != CUT_SHORT:  # a peer that died did nothing wrong
                reason = message.reason if message.count == 1 else f"{message.reason} ({message.count} times)"
                yield from refused_payload(self._known_as(message.peer_id), like, PeerRefused(reason)).refusals

    def _wait_for_members(self, node: Exchange, round: int, since: float) -> list[RosterMember]:
        """Wait until enough members are here, and return those to freeze the roster to.

        Late members are left out until they are heard again, and offenders for their back-off, if the others are
        enough. After the timeout, offenders are let in too.
        """
        has_told = False
        while True:
            seen, waited = self._inbox.count, time.monotonic() - since
            here = self._in_reach(node, round)
            heard = [member for member in here if not self._backoff.is_out(member.name, round=round)]
            awake = [member for member in heard if not self._is_silent(member)]
            is_over = waited >= node.timeout_s
            for members in (awake, heard, here)[: 3 if is_over else 2]:
                if len(members) + 1 >= node.min_peers:
                    return members
            if not has_told and waited >= TELL_S:
                has_told = True
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
        """Return the other members whose round lets them take part in this one, sorted by name."""
        earliest = round - 1 - node.max_staleness
        return [member for member in self._others() if earliest <= self._round_of(member) <= round]

    def _is_silent(self, member: RosterMember) -> bool:
        """Return whether a member was late and has not been heard since."""
        since = self._silent.get(member.peer_id)
        if since is not None and self._inbox.heard_at(member.peer_id) > since:
            del self._silent[member.peer_id]
            return False
        return since is not None

    def _watch(self, peer_id: str, offer: Offer) -> None:
        """Fetch newly announced rows while this peer computes; called on the host's thread, under the inbox's lock."""
        exchange = self._opened.get(offer.node)
        if exchange is not None:
            exchange.announced(peer_id)

    def _others(self) -> list[RosterMember]:
        return [member for member in self._host.roster() if member.peer_id != self._host.peer_id]

    def _round_of(self, member: RosterMember) -> int:
        return max(member.round, self._inbox.round_of(member.peer_id))

    def _known_as(self, peer_id: str) -> str:
        return next((member.name for member in self._others() if member.peer_id == peer_id), peer_id)

    def _require_not_behind(self, round: int) -> None:
        """Raise `PeerBehind` if the others' median round is later; a median, so one peer cannot drag the swarm."""
        others = [member for member in self._others() if not self._backoff.is_out(member.name, round=round)]
        rounds = [self._round_of(member) for member in others]
        if rounds and (there := int(statistics.median_low(rounds))) > round:
            raise PeerBehind(there)
