"""Exchanges in a swarm: each freezes its roster when it opens, and fetches rows until its deadline."""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from genrl_graph.contract.node import Exchange, Packet
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ExchangeTimeout
from genrl_graph.messages import counted
from genrl_graph.runners.loop.exchange import ExchangeResult, PeerBehind, WaitReport
from genrl_graph.runners.loop.signals import Stop
from genrl_graph.runners.swarm.admission.rules import Admission, of_one_shape
from genrl_graph.runners.swarm.admission.verdict import PAYLOAD, Admitted, refusal_columns
from genrl_graph.runners.swarm.claims import Proof
from genrl_graph.runners.swarm.conduct import Conduct
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import MAX_INLINE, Inbox, Offer, newest_key
from genrl_graph.runners.swarm.open_exchange import OpenExchange, Taken
from genrl_graph.runners.swarm.roster import RosterMember
from genrl_graph.runners.swarm.whereabouts import Lookout, Whereabouts
from genrl_graph.wire.packet import encode

PAUSE_S = 0.05
PROOF_S, JOINING_S = 1.0, 5.0  # for which a peer waits, before a round, for rows that prove that the swarm is ahead


class PeerSwarm:
    """The exchanges of one peer. Peers are reported by name; each name maps to one key.

    `admissions` check the rows received, by exchange, in the order in which a round closes the exchanges. An exchange
    needs rows of a peer of each of its `roles`. Without a `proof` nothing that others claim moves this peer to a later
    round.
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
        roles: Mapping[str, Sequence[str]] = MappingProxyType({}),
        proof: Proof | None = None,
    ) -> None:
        self._host, self._inbox, self._name, self._protocol = host, inbox, name, protocol
        self._admissions, self._order, self._roles = admissions, list(admissions), roles
        self._sign, self._stop, self._tell = sign, stop, tell
        self.conduct, self._where = Conduct(host, inbox, proof), Whereabouts(host, inbox, staleness=staleness)
        self._opened: dict[str, OpenExchange] = {}
        self._served: list[Offer] = []
        self._taken: set[Taken] = set()
        self._met: set[str] = set()
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

    def judged(self, *, round: int, seconds: Mapping[str, float], offenders: Collection[str]) -> None:
        """Take note of the time that a step spent on rows of other peers; the offenders among them back off."""
        self.conduct.judged(round=round, seconds=seconds, offenders=offenders)

    def begin(self, round: int) -> None:
        """Announce the round and forget old offers; raises `PeerBehind` if most of the others are far ahead of it."""
        self._host.beat(round)
        self._inbox.begin(round)
        self._give_up()
        oldest = self._where.oldest_served(round)
        for offer in [offer for offer in self._served if offer.round < oldest]:
            self._host.forget(offer.key)
            self._host.forget(offer.announcement_key)
            self._served.remove(offer)
        self._taken -= {(peer_id, key) for peer_id, key in self._taken if int(key.partition("/")[0]) < oldest}
        if self._admissions:
            until = time.monotonic() + (PROOF_S if self._met else JOINING_S)
            self._require_not_behind(round)
            while self.conduct.claims.asking and time.monotonic() < until:
                self._stop.check()
                time.sleep(PAUSE_S)
                self._require_not_behind(round)

    def end(self, rounds: int) -> None:
        """Announce that this peer has finished all rounds."""
        self._host.beat(rounds)

    def is_needed(self, rounds: int) -> bool:
        """Return whether a member of the last exchange, or one that has served rows, has not finished yet."""
        return any(
            self._where.round_of(member) < rounds
            for member in self._where.others()
            if member.peer_id in self._met or self.conduct.claims.has_served(member.peer_id)
        )

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Wait for enough peers, freeze the roster, and announce the offer to its members."""
        since, again = time.monotonic(), self._is_closed(node, round)
        members = [] if again else self._wait_for_members(node, round, since)
        data = encode(offer, limits=node.limits)
        inline = data if len(data) <= MAX_INLINE else None
        own = Offer(peer, round, node.place.node, self._protocol, len(data), hashlib.sha256(data).hexdigest(), inline)
        announcement = own.announced(self._sign)
        self._host.serve(own.key, data)
        for key in (own.announcement_key, newest_key(node.place.node)):
            self._host.serve(key, announcement)
        self._served.append(own)
        if again:  # peers that still wait for it will pull it
            return
        for member in members:
            self._host.push(member.peer_id, announcement, timeout_s=node.timeout_s)
        with self._inbox.changed:
            exchange = OpenExchange(
                self._host,
                self._inbox,
                node,
                offer,
                round=round,
                since=since,
                taken=self._taken,
                is_awaited=self.conduct.is_awaited,
            )
            exchange.ask(members)
            self._opened[node.place.node] = exchange
        self._met = {member.peer_id for member in members}

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> ExchangeResult:
        """Receive and admit the rows of the frozen roster, until all have come or the deadline has passed."""
        if self._is_closed(node, round):
            return ExchangeResult(())
        exchange = self._opened[node.place.node]
        report, lookout = WaitReport(node, self._tell, since=exchange.since), Lookout(self._host, round)
        while True:
            seen, rounds = self._inbox.count, self._where.rounds()
            with self._inbox.changed:
                over = exchange.look(rounds)
            exchange.verify()
            self.conduct.claims.step()
            if over and not self._is_short(exchange, node):
                break
            self._stop.check()
            report.waiting(lambda: ", ".join(exchange.awaited) or self._how_many(node, exchange))
            lookout.waiting()
            self._inbox.wait(seen, timeout_s=PAUSE_S)
        with self._inbox.changed:
            del self._opened[node.place.node]
            exchange.end()
        missing = [f"{each.member.name} ({each.missing})" for each in exchange.asked if each.missing]
        roles = self._roles_missing(node, exchange.members_here)
        if (exchange.came < node.min_peers or roles) and node.on_short == "fail":
            came = f"wants {_wanted(node, roles)} within {node.timeout_s:g} s, but {exchange.came} came"
            raise ExchangeTimeout(f"{came}; missing: {', '.join(missing) or 'nobody'}")
        report.closed([*missing, *(f"a peer of role {role!r}" for role in roles)])
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
        self.conduct.claims.patience = False
        is_enough = exchange.came >= node.min_peers and not self._roles_missing(node, exchange.members_here)
        if is_enough or node.on_short != "wait":
            return False
        self._require_not_behind(
            exchange.round, is_over=True, known={each.member: each.round for each in exchange.asked}
        )
        with self._inbox.changed:
            exchange.ask(self._where.in_reach(node, exchange.round))
        return True

    def _admit(
        self, exchange: OpenExchange, node: Exchange, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> dict[str, tuple[int, Admitted]]:
        """Admit the received rows; returns them by peer name, sorted, each with the round of its offer."""
        announced: dict[str, int] = {}
        admitted: dict[str, Admitted] = {}
        # those first that have served most: who copies their rows comes after them
        for asked in sorted(
            exchange.asked, key=lambda asked: (-self.conduct.claims.weight(asked.member), asked.member)
        ):
            if asked.data is not None and asked.offer is not None:
                name, announced[asked.member.name] = asked.member.name, asked.offer.round
                started = time.monotonic()
                admitted[name] = self._admissions[node.place.node].receive(
                    asked.data,
                    like=exchange.rows,
                    sender=asked.member.claimed,
                    announced=asked.offer.round,
                    round=exchange.round,
                    tasks=tasks,
                    vocabularies=vocabularies,
                    shown=name,
                )
                self.conduct.accounts.add(name, bytes=len(asked.data), seconds=time.monotonic() - started)
        return {name: (announced[name], packet) for name, packet in of_one_shape(admitted).items()}

    def _result(self, exchange: OpenExchange, received: Mapping[str, tuple[int, Admitted]]) -> ExchangeResult:
        """Build the result of an exchange: its packets, refusals and missing members; judges the members."""
        round, own = exchange.round, exchange.rows
        refusals = [refusal for _, packet in received.values() for refusal in packet.refusals]
        refusals += self.conduct.refused(own, round)
        for asked in exchange.asked:
            self.conduct.judge(asked, received.get(asked.member.name), round=round)
        packets = [Packet(name, announced, admitted.rows) for name, (announced, admitted) in received.items()]
        missing = {asked.member.name: asked.missing for asked in exchange.asked if asked.missing}
        stale = {packet.peer: packet.round for packet in packets if packet.round != round}
        rows = sum(admitted.refused for _, admitted in received.values())
        return ExchangeResult(
            tuple(sorted([*packets, Packet(self._name, round, own)], key=lambda packet: packet.peer)),
            {name: fact for name, fact in (("missing", missing), ("stale", stale)) if fact},
            {
                "late": float(sum(why in ("late", "slow") for why in missing.values())),
                "refused": float(rows + sum(refusal.row == PAYLOAD for refusal in refusals)),
            },
            refusal_columns(refusals),
        )

    def _wait_for_members(self, node: Exchange, round: int, since: float) -> list[RosterMember]:
        """Wait until enough members are here, and return those to freeze the roster to.

        Offenders, late ones among them, are left out for their back-off if the others are enough. After the timeout,
        they are let in too.
        """
        report, lookout = WaitReport(node, self._tell, since=since), Lookout(self._host, round)
        while True:
            seen, waited = self._inbox.count, time.monotonic() - since
            here = self._where.in_reach(node, round)
            heard = [member for member in here if not self.conduct.backoff.is_out(member.peer_id, round=round)]
            is_over = waited >= node.timeout_s
            self.conduct.claims.patience &= not is_over
            for members in (heard, here)[: 2 if is_over else 1]:
                if len(members) + 1 >= node.min_peers and not self._roles_missing(node, members):
                    return members
            report.waiting(partial(self._who_is_missing, node, here))
            if is_over and node.on_short == "continue":
                return here
            if is_over and node.on_short == "fail":
                roles = self._roles_missing(node, here)
                advice = f"start one with --role {roles[0]}" if roles else "start more, or lower min_peers"
                what = f"wants {_wanted(node, roles)} within {node.timeout_s:g} s, but {len(here) + 1} are here"
                raise ExchangeTimeout(f"{what}; {advice}")
            self._require_not_behind(round, is_over=is_over)
            self._stop.check()
            lookout.waiting()
            self._inbox.wait(seen, timeout_s=PAUSE_S)

    def _who_is_missing(self, node: Exchange, members: Sequence[RosterMember]) -> str:
        here = ", ".join([self._name, *(member.name for member in members)])
        return f"{_wanted(node, self._roles_missing(node, members))}, here: {here}"

    def _how_many(self, node: Exchange, exchange: OpenExchange) -> str:
        return f"{_wanted(node, self._roles_missing(node, exchange.members_here))}, {exchange.came} came"

    def _roles_missing(self, node: Exchange, members: Sequence[RosterMember]) -> list[str]:
        """Return the roles that make rows of an exchange and that neither this peer nor one of the members plays."""
        here = [self._host.own, *members]
        needed = self._roles.get(node.place.node, ())
        return [role for role in needed if not any(member.plays(role) for member in here)]

    def _watch(self, peer_id: str, offer: Offer) -> None:
        """Fetch newly announced rows while this peer computes; called on the host's thread, under the inbox's lock."""
        exchange = self._opened.get(offer.node)
        if exchange is not None:
            exchange.announced(peer_id)

    def _require_not_behind(
        self, round: int, *, is_over: bool = False, known: Mapping[RosterMember, int] = MappingProxyType({})
    ) -> None:
        """Raise `PeerBehind` if the others no longer serve rows of this round, as far as later rows prove it.

        Once the exchange's time is over, nobody waits for rows of an earlier round than that of the swarm, and the word
        of those in back-off counts too: it may be all of the swarm. `known` are rounds of members that may have left.
        """
        rounds = {member.peer_id: (member, at) for member, at in known.items()} | {
            member.peer_id: (member, self._where.round_of(member))
            for member in self._where.others()
            if is_over or not self.conduct.backoff.is_out(member.peer_id, round=round)
        }
        there = self.conduct.claims.later_round(dict(rounds.values()), round=round)
        if there is not None and there > (round if is_over else self._where.last_to_serve(round)):
            raise PeerBehind(there)


def _wanted(node: Exchange, roles: Sequence[str]) -> str:
    """Return how many peers an exchange wants, and the roles that are missing among them."""
    return counted(node.min_peers, "peer") + "".join(f" and one of role {role!r}" for role in roles)
