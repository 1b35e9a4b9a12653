"""Whereabouts: in which rounds the other peers are, and which of them can take part in a round of this one."""

import time

from genrl_graph.contract.node import Exchange
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import Inbox
from genrl_graph.runners.swarm.roster import RosterMember

SERVED = 2  # rounds after its own in which a peer still serves the rows of a round, to those that are behind
FIRST_LOOK_S, LONGEST_LOOK_S = 1.0, 8.0


class Whereabouts:
    """The rounds of the other peers, from their heartbeats and announcements.

    A peer that is one round behind plays on: the others still serve their rows of its round, and it waits for none of
    them, so it catches up. `staleness` is the largest of the exchanges, in rounds.
    """

    def __init__(self, host: Host, inbox: Inbox, *, staleness: int) -> None:
        self._host, self._inbox, self._staleness = host, inbox, staleness

    def others(self) -> list[RosterMember]:
        """Return the other members of the swarm, sorted by name."""
        return [member for member in self._host.roster() if member.peer_id != self._host.peer_id]

    def round_of(self, member: RosterMember) -> int:
        """Return the latest round in which a member says it is."""
        return max(member.round, self._inbox.round_of(member.peer_id))

    def rounds(self) -> dict[str, int]:
        """Return the round of each other member, by peer id."""
        return {member.peer_id: self.round_of(member) for member in self.others()}

    def in_reach(self, node: Exchange, round: int) -> list[RosterMember]:
        """Return the others that may still offer rows to an exchange of this round, or that still serve them."""
        earliest, latest = round - 1 - node.max_staleness, round + SERVED + self._staleness
        return [member for member in self.others() if earliest <= self.round_of(member) <= latest]

    def last_to_serve(self, round: int) -> int:
        """Return the last round of the swarm in which this one is played: a round later nobody may serve its rows."""
        return round + SERVED - 1 + self._staleness

    def oldest_served(self, round: int) -> int:
        """Return the oldest round whose rows a peer in this round serves."""
        return round - SERVED - self._staleness


class Lookout:
    """Renews the heartbeat, and reads those of the others, in growing pauses while a peer waits in a round.

    Authors announce their rows to those alone for which they wait, and heartbeats are renewed rarely: who waits without
    looking does not see that the swarm goes on.
    """

    def __init__(self, host: Host, round: int) -> None:
        self._host, self._round, self._pause_s = host, round, FIRST_LOOK_S
        self._next = time.monotonic() + FIRST_LOOK_S

    def waiting(self) -> None:
        """Look for the others, if it is time to."""
        now = time.monotonic()
        if now >= self._next:
            self._host.beat(self._round)
            self._pause_s = min(2 * self._pause_s, LONGEST_LOOK_S)
            self._next = now + self._pause_s
