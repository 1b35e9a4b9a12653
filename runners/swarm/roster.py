"""The roster of a swarm: the members that one peer knows from their signed heartbeats."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.transport.heartbeat import Heartbeat, open_beat
from genrl_graph.runners.swarm.transport.refusals import Refusals

MAX_MEMBERS = 1024
MAX_NAMES = 4096


@dataclass(frozen=True, slots=True, order=True)
class RosterMember:
    """A peer that plays the same graph in the same swarm."""

    name: str
    peer_id: str
    round: int


class Roster:
    """The members of a swarm, from their heartbeats; thread-safe, uses no network, and no heartbeat makes it raise."""

    def __init__(
        self,
        own: RosterMember,
        *,
        swarm: str,
        protocol: str,
        session: str,
        refusals: Refusals,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.swarm = swarm
        self.protocol = protocol
        self.session = session
        self._own = own
        self._refusals = refusals
        self._clock = clock
        self._since = clock()
        self._rival: str | None = None
        self._lock = threading.RLock()
        self._beats: dict[str, tuple[bytes, Heartbeat]] = {}
        self._owners: dict[str, str] = {own.name: own.peer_id}

    @property
    def rival(self) -> str | None:
        """Return the id of another peer that uses this peer's name, or None."""
        return self._rival

    @property
    def own(self) -> RosterMember:
        """Return this peer as a member, with the round that it plays."""
        return self._own

    def enter(self, round: int) -> None:
        """Set the round that this peer plays."""
        self._own = RosterMember(self._own.name, self._own.peer_id, round)

    def take(self, data: object, *, subkey: object = None) -> bool:
        """Add a heartbeat, or refuse it; returns whether its peer is new, or back after leaving or expiring."""
        now = self._clock()
        with self._lock:
            try:
                return self._take(data, subkey, now)
            except PeerRefused as error:
                self._refusals.add(subkey if isinstance(subkey, str) else None, "beat", error)
                return False

    def members(self) -> list[RosterMember]:
        """Return the members with a fresh heartbeat, sorted by name; this peer is always included."""
        return sorted(
            [self._own, *(RosterMember(b.name, id, b.round) for id, b in self._fresh() if self._plays_along(b))]
        )

    def addresses(self, peer_id: str) -> list[str]:
        """Return the addresses that a peer claims in its heartbeat."""
        with self._lock:
            _, beat = self._beats.get(peer_id, (b"", None))
            return list(beat.addresses) if beat is not None else []

    def places(self) -> dict[str, list[str]]:
        """Return the addresses of all known peers, fresh or not, to dial after a lost network."""
        with self._lock:
            return {peer_id: list(beat.addresses) for peer_id, (_, beat) in self._beats.items()}

    def strangers(self) -> dict[str, list[str]]:
        """Return the other protocols played under this swarm's name, with the names of their peers."""
        names_by_protocol: dict[str, list[str]] = {}
        for _, beat in self._fresh():
            if not self._plays_along(beat):
                names_by_protocol.setdefault(beat.protocol, []).append(beat.name)
        return {protocol: sorted(names) for protocol, names in sorted(names_by_protocol.items())}

    def _take(self, data: object, subkey: object, now: float) -> bool:
        known = self._beats.get(subkey) if isinstance(subkey, str) else None
        if known is not None and known[0] == data:
            return False
        peer_id, beat = open_beat(data, now=now)
        if subkey is not None and subkey != peer_id:
            raise PeerRefused(f"beat: stands under another peer's id, it is of {peer_id}")
        if beat.swarm != self.swarm:
            raise PeerRefused(f"beat: of swarm {beat.swarm!r}, not {self.swarm!r}")
        if peer_id == self._own.peer_id:
            if beat.session != self.session and beat.time > self._since:
                raise PeerRefused(f"beat: another running peer, named {beat.name!r}, has this peer's identity")
            return False
        assert isinstance(data, bytes)
        return self._keep(peer_id, beat, data, now)

    def _keep(self, peer_id: str, beat: Heartbeat, data: bytes, now: float) -> bool:
        before = self._beats.get(peer_id, (b"", None))[1]
        if beat.expires <= now or (before is not None and beat.time <= before.time):
            return False
        if self._plays_along(beat) and not beat.left:
            owner = self._owners.get(beat.name, peer_id)
            if owner != peer_id:
                self._rival = peer_id if owner == self._own.peer_id else self._rival
                raise PeerRefused(f"beat: {peer_id} takes the name {beat.name!r}, which is {owner}'s here")
        if before is None:
            self._make_room(now)
        if self._plays_along(beat):
            self._owners[beat.name] = peer_id
        self._beats[peer_id] = (data, beat)
        return not beat.left and (before is None or before.left or before.expires <= now)

    def _make_room(self, now: float) -> None:
        """Forget expired peers when full; names keep their first owner until there are `MAX_NAMES` of them."""
        if len(self._beats) >= MAX_MEMBERS:
            self._beats = {id: entry for id, entry in self._beats.items() if entry[1].expires > now}
            if len(self._beats) >= MAX_MEMBERS:
                raise PeerRefused(f"beat: {MAX_MEMBERS} peers are known, no more fit")
        if len(self._owners) >= MAX_NAMES:
            fresh = {self._own.peer_id, *self._beats}
            self._owners = {name: id for name, id in self._owners.items() if id in fresh}

    def _fresh(self) -> list[tuple[str, Heartbeat]]:
        now = self._clock()
        with self._lock:
            return [(id, beat) for id, (_, beat) in self._beats.items() if beat.expires > now and not beat.left]

    def _plays_along(self, beat: Heartbeat) -> bool:
        return beat.protocol == self.protocol
