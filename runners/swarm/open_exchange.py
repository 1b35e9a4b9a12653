"""One open exchange: its frozen roster, and the transfers of its members' rows."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
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
GRACE = 0.1  # share of the exchange's time for members that are not awaited

Taken = tuple[str, str]
"""Rows that an exchange has taken: peer id and payload key."""


@dataclass(slots=True)
class MemberOffer:
    """A member of a frozen roster, with its offer and its rows.

    `missing` is the reason why there are no rows: late, slow (announced, but did not serve), gone, ahead (in a later
    round) or refused. It is empty while they may still come. Nobody waits for a member that is not `awaited`. `round`
    is the latest in which the member was seen.
    """

    member: RosterMember
    round: int
    awaited: bool = True
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
        """Return whether the rows are here, or are known to be missing."""
        return self.data is not None or bool(self.missing)


class OpenExchange:
    """The transfers of one exchange; `rows` are the own ones. Hold the inbox's lock for all calls but `verify`.

    `taken` lists rows, by peer id and key, of earlier exchanges: they are not taken again as stale rows. Authors push
    their announcements. One that did not arrive, because it was lost or its author did not know this peer, is pulled,
    with growing pauses.
    """

    def __init__(
        self,
        host: Host,
        inbox: Inbox,
        node: Exchange,
        rows: Frame,
        *,
        round: int,
        since: float,
        taken: set[Taken],
        is_awaited: Callable[[str], bool] = lambda peer_id: True,
    ) -> None:
        self.rows, self.round, self.since = rows, round, since
        self._is_awaited, self._complete_at = is_awaited, math.inf
        self.asked: list[MemberOffer] = []
        self._host, self._inbox, self._node, self._taken = host, inbox, node, taken

    @property
    def deadline(self) -> float:
        """Return the monotonic time after which a member without an answer is late."""
        return self.since + self._node.timeout_s

    @property
    def came(self) -> int:
        """Return the number of peers whose rows are here, this one included."""
        return 1 + sum(asked.data is not None for asked in self.asked)

    @property
    def members_here(self) -> list[RosterMember]:
        """Return the other peers whose rows are here."""
        return [asked.member for asked in self.asked if asked.data is not None]

    @property
    def awaited(self) -> list[str]:
        """Return the names of the members that this exchange waits for."""
        return [asked.member.name for asked in self.asked if asked.awaited and not asked.settled]

    def ask(self, members: Sequence[RosterMember]) -> None:
        """Add members to the roster of the exchange; one that was gone is asked again."""
        known = {asked.member.peer_id: asked for asked in self.asked}
        now = time.monotonic()
        for member in members:
            before = known.get(member.peer_id)
            if before is None or before.missing == "gone":
                awaited = self._is_awaited(member.peer_id)
                asked = MemberOffer(member, member.round, awaited, again_at=now + FIRST_PULL_S)
                self.asked = [each for each in self.asked if each is not before] + [asked]
                self._take_offer(asked, now)

    def announced(self, peer_id: str) -> None:
        """Fetch the rows of a peer's new announcement; called on the host's thread while this peer computes."""
        for asked in self.asked:
            if asked.member.peer_id == peer_id and not asked.settled:
                self._take_offer(asked, time.monotonic())

    def look(self, rounds: Mapping[str, int]) -> bool:
        """Collect finished transfers and start the next ones; `rounds` maps the peers on the roster to their rounds.

        Returns whether every member is settled or past its deadline. Once all are that are awaited, and enough rows are
        here, the others have a tenth of the exchange's time.
        """
        now = time.monotonic()
        for asked in self.asked:
            asked.round = max(asked.round, rounds.get(asked.member.peer_id, asked.round))
            if not asked.settled:
                self._look(asked, rounds, now)
            if not asked.settled and now >= self.deadline and asked.until == math.inf:
                self._take_stale(asked, now)
        waiting = [asked for asked in self.asked if not asked.settled and now < max(self.deadline, asked.until)]
        if any(asked.awaited for asked in waiting) or self.came < self._node.min_peers:
            return not waiting
        self._complete_at = min(self._complete_at, now)
        return not waiting or now >= self._complete_at + GRACE * self._node.timeout_s

    def verify(self) -> None:
        """Check the received rows against their announced hash; slow, so call it without the lock."""
        for asked in self.asked:
            if asked.data is not None and not asked.verified:
                assert asked.offer is not None
                asked.verified = True
                hashed = asked.hashed or hashlib.sha256(asked.data)
                if hashed.hexdigest() != asked.offer.sha256:
                    self._refuse(asked, "sha256: the rows are not those that were announced")
                    asked.data = None

    def end(self) -> None:
        """Cancel unfinished transfers, and record which rows were taken and which members are late or slow."""
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
        """Read the member's announcement from the inbox, if it has come, and fetch its rows."""
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
        """Ask a member for its announcement; one in a later round that serves none is missing as `ahead`."""
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
        if offer.peer != asked.member.claimed:
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
        """Start to fetch a key, hashing the chunks as they arrive."""
        asked.hashed = hashlib.sha256()
        peer_id, watch = asked.member.peer_id, asked.hashed.update
        asked.coming = self._host.fetch(peer_id, key, max_bytes=max_bytes, timeout_s=timeout_s, watch=watch)
        asked.coming.add_done_callback(lambda _: self._inbox.wake())

    def _refuse(self, asked: MemberOffer, reason: str) -> None:
        asked.missing = "refused"
        self._inbox.refuse(asked.member.peer_id, reason.removeprefix(f"peer {asked.member.peer_id}: "))

    def _take_stale(self, asked: MemberOffer, now: float) -> None:
        """Fetch the newest earlier rows, within `max_staleness`, of a member that announced none in time."""
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
