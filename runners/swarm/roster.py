"""The roster of a swarm: the members that one peer knows from their signed heartbeats."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.transport.heartbeat import Heartbeat, open_beat, qualified
from genrl_graph.runners.swarm.transport.refusals import Refusals

MAX_MEMBERS = 1024
MAX_NAMES = 4096


@dataclass(frozen=True, slots=True, order=True)
class RosterMember:
    """A peer that plays the same graph in the same swarm.

    `name` is unique here; `claim` is the name in the peer's heartbeats and rows ("": the same). `roles` are those that
    the peer says it plays; empty: all.
    """

    name: str
    peer_id: str
    round: int
    claim: str = ""
    roles: tuple[str, ...] = ()

    @property
    def claimed(self) -> str:
        """Return the name that the peer itself uses."""
        return self.claim or self.name

    def plays(self, role: str) -> bool:
        """Return whether the peer says that it plays a role."""
        return not self.roles or role in self.roles


class Roster:
    """The members of a swarm, from their heartbeats; thread-safe, uses no network, and no heartbeat makes it raise.

    A name belongs to the first key that claims it and has served rows (`establish`). Others that claim it, and all
    that claim one which nobody has earned yet, are shown as `name@` and 8 characters of their key. A full roster
    forgets a random peer that has served nothing before it refuses a new one.
    """

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
        self._lock = threading.RLock()
        self._beats: dict[str, tuple[bytes, Heartbeat]] = {}
        self._owners: dict[str, str | None] = {own.name: own.peer_id}  # None: claimed by several, earned by nobody
        self._established: dict[str, None] = {}  # keys that served rows, the latest last
        self._rivals: set[str] = set()

    @property
    def rivals(self) -> set[str]:
        """Return the ids of other peers that claim this peer's name."""
        return self._rivals

    def qualify_own_name(self) -> None:
        """Give this peer the name that only its key can claim."""
        with self._lock:
            name = qualified(self._own.name, self._own.peer_id)
            self._owners[self._own.name] = None if len(self._rivals) > 1 else next(iter(self._rivals), None)
            self._owners[name] = self._own.peer_id
            self._own = replace(self._own, name=name)

    def establish(self, peer_id: str) -> None:
        """Note that a peer has served rows in time: it keeps its name and its place."""
        with self._lock:
            self._established.pop(peer_id, None)
            self._established[peer_id] = None
            while len(self._established) > MAX_NAMES:
                del self._established[next(iter(self._established))]

    def is_established(self, peer_id: str) -> bool:
        """Return whether a peer has served rows in time; this one counts as such."""
        return peer_id == self._own.peer_id or peer_id in self._established

    def name_of(self, peer_id: str) -> str | None:
        """Return the name under which a peer is shown, None for an unknown one."""
        with self._lock:
            entry = self._beats.get(peer_id)
            return None if entry is None else self._shown_name(peer_id, entry[1])

    @property
    def own(self) -> RosterMember:
        """Return this peer as a member, with the round that it plays."""
        return self._own

    def enter(self, round: int) -> None:
        """Set the round that this peer plays."""
        self._own = replace(self._own, round=round)

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
        with self._lock:
            others = [
                RosterMember(self._shown_name(id, beat), id, beat.round, beat.name, _roles(beat))
                for id, beat in self._fresh()
                if self._plays_along(beat)
            ]
            return sorted([self._own, *others])

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
        if before is None:
            self._make_room(now)
        if self._plays_along(beat):
            self._claim(beat.name, peer_id, left=beat.left)
        self._beats[peer_id] = (data, beat)
        return not beat.left and (before is None or before.left or before.expires <= now)

    def _claim(self, name: str, peer_id: str, *, left: bool) -> None:
        """Let a name belong to its first claimant; where another one claims it before the first has served, to none."""
        owner = self._owners.setdefault(name, peer_id)
        if owner == peer_id or "@" in name:
            return
        if name == self._own.name:
            (self._rivals.discard if left else self._rivals.add)(peer_id)
        elif owner is not None and not self.is_established(owner):
            self._owners[name] = None

    def _shown_name(self, peer_id: str, beat: Heartbeat) -> str:
        is_own = "@" in beat.name or self._owners.get(beat.name, peer_id) == peer_id
        return beat.name if is_own else qualified(beat.name, peer_id)

    def _make_room(self, now: float) -> None:
        """Forget expired peers when full, then a random one that has served nothing.

        Names keep their owner until there are `MAX_NAMES` of them.
        """
        if len(self._beats) >= MAX_MEMBERS:
            self._beats = {id: entry for id, entry in self._beats.items() if entry[1].expires > now}
            if len(self._beats) >= MAX_MEMBERS:
                idle = [id for id in self._beats if not self.is_established(id)]
                if not idle:
                    raise PeerRefused(f"beat: {MAX_MEMBERS} peers that serve rows are known, no more fit")
                del self._beats[random.choice(idle)]
        if len(self._owners) >= MAX_NAMES:
            kept = {self._own.peer_id, *self._beats, *self._established}
            self._owners = {name: id for name, id in self._owners.items() if id in kept}

    def _fresh(self) -> list[tuple[str, Heartbeat]]:
        now = self._clock()
        with self._lock:
            return [(id, beat) for id, (_, beat) in self._beats.items() if beat.expires > now and not beat.left]

    def _plays_along(self, beat: Heartbeat) -> bool:
        return beat.protocol == self.protocol


def _roles(beat: Heartbeat) -> tuple[str, ...]:
    return tuple(beat.roles.split(",")) if beat.roles else ()
