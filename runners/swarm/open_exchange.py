"""One exchange that is open: the members that it is frozen to, and their rows on the way."""

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from genrl_graph.contract.node import Exchange
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import MAX_ANNOUNCEMENT, Inbox, Offer, announcement_key
from genrl_graph.runners.swarm.roster import RosterMember

FIRST_PULL_S, LONGEST_PULL_S = 0.25, 4.0
PULL_TIMEOUT_S = 10.0
AGAIN_S = 0.5

Taken = tuple[str, str]
"""Rows that were taken: the id of the peer, and their key."""


@dataclass(slots=True)
class MemberOffer:
    """A member of a frozen roster: what it announced, and its rows.

    `missing` says why there are none: late, slow (announced, but did not serve), gone, ahead (in a later round) or
    refused.
    """

    member: RosterMember
    offer: Offer | None = None
    data: bytes | bytearray | None = None
    missing: str = ""
    until: float = math.inf
    again_at: float = 0.0
    pause_s: float = FIRST_PULL_S
    coming: "Future[bytearray] | None" = None
    pulled_ahead: bool = False
    hashed: "hashlib._Hash | None" = None
    verified: bool = False

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to come."""
        return self.data is not None or bool(self.missing)


class OpenExchange:
    """The rows of one exchange, `rows` being the own ones. But for `verify`, all of it happens under the inbox's lock.

    `taken` names the rows, by peer id and key, that were taken before: they are not taken again as old ones.
    Announcements are pushed by their authors. Where one did not come, because it was lost or its author did not know
    this peer, it is pulled, ever less often.
    """

    def __init__(
        self, host: Host, inbox: Inbox, node: Exchange, rows: Frame, *, round: int, since: float, taken: set[Taken]
    ) -> None:
        self.rows, self.round, self.since = rows, round, since
        self.asked: list[MemberOffer] = []
        self._host, self._inbox, self._node, self._taken = host, inbox, node, taken

    @property
    def deadline(self) -> float:
        """When who has not answered is late."""
        return self.since + self._node.timeout_s

    @property
    def came(self) -> int:
        """How many peers' rows are here, the own ones included."""
        return 1 + sum(asked.data is not None for asked in self.asked)

    def ask(self, members: Sequence[RosterMember]) -> None:
        """Take these into the roster of the exchange; one that was gone is asked again."""
        known = {asked.member.peer_id: asked for asked in self.asked}
        now = time.monotonic()
        for member in members:
            before = known.get(member.peer_id)
            if before is None or before.missing == "gone":
                asked = MemberOffer(member, again_at=now + FIRST_PULL_S)
                self.asked = [each for each in self.asked if each is not before] + [asked]
                self._take_offer(asked, now)

    def announced(self, peer_id: str) -> None:
        """A peer has announced something: fetch it while this peer still computes; called on the host's thread."""
        for asked in self.asked:
            if asked.member.peer_id == peer_id and not asked.settled:
                self._take_offer(asked, time.monotonic())

    def look(self, rounds: Mapping[str, int]) -> bool:
        """See what has come, and ask for what has not; `rounds` says where each peer is that is there.

        Returns whether all has come, or the time is over.
        """
        now = time.monotonic()
        for asked in self.asked:
            if not asked.settled:
                self._look(asked, rounds, now)
            if not asked.settled and now >= self.deadline and asked.until == math.inf:
                self._take_stale(asked, now)
        return all(asked.settled or now >= max(self.deadline, asked.until) for asked in self.asked)

    def verify(self) -> None:
        """Hold what has come against the hash that was announced: long work, which holds no lock."""
        for asked in self.asked:
            if asked.data is not None and not asked.verified:
                assert asked.offer is not None
                asked.verified = True
                hashed = asked.hashed or hashlib.sha256(asked.data)
                if hashed.hexdigest() != asked.offer.sha256:
                    self._refuse(asked, "sha256: the rows are not those that were announced")
                    asked.data = None

    def end(self) -> None:
        """Give up what is still on its way."""
        for asked in self.asked:
            if asked.data is not None and asked.offer is not None:
                self._taken.add((asked.member.peer_id, asked.offer.key))
            if not asked.settled:
                asked.missing = "late" if asked.offer is None else "slow"
            if asked.coming is not None:
                asked.coming.cancel()

    def _look(self, asked: MemberOffer, rounds: Mapping[str, int], now: float) -> None:
        peer_id = asked.member.peer_id
        self._take_offer(asked, now)
        if asked.offer is not None:
            if asked.coming is None and not asked.settled and peer_id not in rounds:
                asked.missing = "gone"
        elif peer_id not in rounds:
            asked.missing = "gone"
        else:
            self._pull(asked, now, ahead=rounds[peer_id] > self.round)

    def _take_offer(self, asked: MemberOffer, now: float) -> None:
        """Take what the member announced, and fetch its rows."""
        if asked.offer is None:
            offer = self._inbox.find(self._node.place.node, self.round, asked.member.peer_id)
            if offer is None:
                return
            self._begin(asked, offer)
        self._fetch(asked, now)

    def _begin(self, asked: MemberOffer, offer: Offer) -> None:
        if asked.coming is not None:
            asked.coming.cancel()
        asked.offer, asked.coming, asked.again_at = offer, None, 0.0

    def _pull(self, asked: MemberOffer, now: float, *, ahead: bool) -> None:
        """Ask a member for its announcement; one that is in a later round has none where it does not serve one."""
        if asked.coming is None:
            if now >= asked.again_at or ahead:
                asked.pulled_ahead = ahead
                key = announcement_key(self._node.place.node, self.round)
                self._ask(asked, key, max_bytes=MAX_ANNOUNCEMENT, timeout_s=PULL_TIMEOUT_S)
        elif asked.coming.done():
            coming, asked.coming = asked.coming, None
            asked.again_at, asked.pause_s = now + asked.pause_s, min(2 * asked.pause_s, LONGEST_PULL_S)
            error = coming.exception()
            if error is None:
                self._inbox.take(asked.member.peer_id, bytes(coming.result()))
            elif isinstance(error, PeerRefused):
                self._refuse(asked, str(error))
            if asked.pulled_ahead and asked.offer is None and not asked.missing:
                asked.missing = "ahead"

    def _fetch(self, asked: MemberOffer, now: float) -> None:
        offer, most = asked.offer, self._node.limits.max_payload_bytes
        assert offer is not None
        if offer.peer != asked.member.name:
            self._refuse(asked, f"peer: announces rows of {offer.peer[:80]!r}")
        elif offer.size > most:
            self._refuse(asked, f"size: announces {offer.size} bytes, max_payload_mb allows {most}")
        elif offer.inline is not None:
            asked.data, asked.hashed = offer.inline, None
        elif asked.coming is None:
            if now >= asked.again_at:
                self._ask(asked, offer.key, max_bytes=offer.size, timeout_s=self._node.timeout_s)
        elif asked.coming.done():
            coming, asked.coming = asked.coming, None
            if (error := coming.exception()) is None:
                asked.data = coming.result()
            elif isinstance(error, PeerRefused):
                self._refuse(asked, str(error))
            else:
                asked.again_at = now + AGAIN_S

    def _ask(self, asked: MemberOffer, key: str, *, max_bytes: int, timeout_s: float) -> None:
        """Fetch, and hash what comes."""
        asked.hashed = hashlib.sha256()
        peer_id, watch = asked.member.peer_id, asked.hashed.update
        asked.coming = self._host.fetch(peer_id, key, max_bytes=max_bytes, timeout_s=timeout_s, watch=watch)
        asked.coming.add_done_callback(lambda _: self._inbox.wake())

    def _refuse(self, asked: MemberOffer, reason: str) -> None:
        asked.missing = "refused"
        self._inbox.refuse(asked.member.peer_id, reason.removeprefix(f"peer {asked.member.peer_id}: "))

    def _take_stale(self, asked: MemberOffer, now: float) -> None:
        """Of a member that did not come, take the rows of the newest earlier round that are not too old."""
        asked.until = now
        if asked.offer is not None:
            return
        for round in range(self.round - 1, self.round - 1 - self._node.max_staleness, -1):
            offer = self._inbox.find(self._node.place.node, round, asked.member.peer_id)
            if offer is not None and (asked.member.peer_id, offer.key) not in self._taken:
                asked.until = now + self._node.timeout_s
                self._begin(asked, offer)
                self._fetch(asked, now)
                return
