"""Conduct: what other peers did and cost, and what follows: who is left out, who is waited for, whose word counts."""

from collections.abc import Collection, Iterator, Mapping

from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.accounts import Accounts
from genrl_graph.runners.swarm.admission.verdict import Admitted, RowRefusal, refused_payload
from genrl_graph.runners.swarm.backoff import Backoff
from genrl_graph.runners.swarm.claims import Claims, Proof
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import Inbox
from genrl_graph.runners.swarm.open_exchange import MemberOffer
from genrl_graph.runners.swarm.transport.streams import CUT_SHORT

NEWCOMERS = "newcomers"
"""The key, in the back-off, of all peers that have served nothing yet."""


class Conduct:
    """The conduct of all other peers, as this one has seen it: back-off, claims and accounts."""

    def __init__(self, host: Host, inbox: Inbox, proof: Proof | None) -> None:
        self.backoff, self.claims, self.accounts = Backoff(), Claims(host, proof), Accounts()
        self._host, self._inbox = host, inbox

    def judged(self, *, round: int, seconds: Mapping[str, float], offenders: Collection[str]) -> None:
        """Add the time that a step spent on rows of other peers; the offenders among them back off."""
        for name, spent in seconds.items():
            self.accounts.add(name, seconds=spent)
        ids = {member.name: member.peer_id for member in self._host.roster()}
        for name in offenders:
            if name in ids:
                self.backoff.offend(ids[name], round=round)

    def is_awaited(self, peer_id: str) -> bool:
        """Return whether an exchange waits for a peer.

        It waits for one that has served nothing yet until such a one was late: new keys cost nothing.
        """
        is_known = self.claims.has_served(peer_id) or self.backoff.is_awaited(NEWCOMERS)
        return is_known and self.backoff.is_awaited(peer_id)

    def judge(self, asked: MemberOffer, received: tuple[int, Admitted] | None, *, round: int) -> None:
        """Let a member back off that was late or sent bad rows; only good rows in time speak for it.

        `received` are the round of its offer and the admitted rows, None where none came.
        """
        peer_id, name = asked.member.peer_id, asked.member.name
        is_new = not self.claims.has_served(peer_id)
        if asked.missing in ("late", "slow"):
            self.backoff.offend(peer_id, round=round)
            if is_new and asked.awaited:
                self.backoff.offend(NEWCOMERS, round=round)
            self.accounts.add(name, late=1)
        if received is None:
            return
        announced, packet = received
        self.accounts.add(name, rows=len(packet.rows), refused=packet.refused or packet.misbehaved)
        if packet.misbehaved:
            self.backoff.offend(peer_id, round=round)
        elif announced == round:
            self.backoff.serve(peer_id, round=round)
            if is_new:
                self.backoff.serve(NEWCOMERS, round=round)
            if len(packet.rows):
                self.claims.served(peer_id, round=round)
                self._host.establish(peer_id)

    def refused(self, like: Frame, round: int) -> Iterator[RowRefusal]:
        """Yield refusals of announcements and messages that never became rows; offenders enter the back-off."""
        for refused in self._inbox.refusals():
            name = self._host.name_of(refused.peer_id)
            self.accounts.add(name, refused=1)
            if refused.offence:
                self.backoff.offend(refused.peer_id, round=round)
            yield from refused_payload(name, like, PeerRefused(refused.reason)).refusals
        for message in self._host.take_refusals():
            if message.peer_id is not None and message.reason != CUT_SHORT:  # a peer that died did nothing wrong
                self.accounts.add(self._host.name_of(message.peer_id), refused=message.count)
                reason = message.reason if message.count == 1 else f"{message.reason} ({message.count} times)"
                yield from refused_payload(self._host.name_of(message.peer_id), like, PeerRefused(reason)).refusals
