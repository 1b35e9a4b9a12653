"""The presence of a peer in the swarm: renews its heartbeat, reads those of the others and restarts its daemon."""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from genrl_graph.errors import ParamError, PeerRefused, SwarmError
from genrl_graph.runners.swarm.roster import Roster, RosterMember
from genrl_graph.runners.swarm.transport.dht import HeartbeatValidator, read_beats, store_beat
from genrl_graph.runners.swarm.transport.heartbeat import MAX_ROLES, PEER_NAME, Heartbeat
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.limits import TransportLimits
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.runners.swarm.transport.payloads import PayloadStore
from genrl_graph.runners.swarm.transport.point import MeetingPoint, Tell
from genrl_graph.runners.swarm.transport.refusals import Refusals
from genrl_graph.runners.swarm.transport.streams import BEAT, Streams

GREETING_S = 2.0
RENEW_S = 60.0  # a daemon that hangs must not block the upkeep
OnPush = Callable[[str, bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """Swarm, protocol and name of a peer; each has at most 64 letters, digits, `.`, `_` and `-`."""

    swarm: str
    """Name of the swarm; peers with the same swarm and protocol play together."""
    protocol: str
    """Fingerprint of the graph, which all peers must share."""
    name: str
    """The peer's name, from which its seeds derive."""
    fixed: bool = False
    """True if rows were made under this name already; else a name that another peer has is given a part of the key."""
    roles: tuple[str, ...] = ()
    """The roles that the peer plays; empty: all."""

    def __post_init__(self) -> None:
        for field, value in (("swarm", self.swarm), ("protocol", self.protocol), ("name", self.name)):
            pattern = PEER_NAME if field == "name" else r"[A-Za-z0-9_.-]{1,64}"
            if not re.fullmatch(pattern, value):
                raise ParamError(f"{field}={value!r}: wants 1 to 64 letters, digits, `.`, `_` or `-`")
        if len(",".join(self.roles)) > MAX_ROLES:
            raise ParamError(f"roles={self.roles!r}: wants names of at most {MAX_ROLES} characters together")


class Presence:
    """The heartbeat, roster and daemon of one peer.

    `open`, `look`, `leave` and `renew_now` must be called on the event loop; the roster, the payloads and the refusals
    are thread-safe.
    """

    def __init__(
        self,
        identity: Identity,
        play: PeerIdentity,
        *,
        network: NetworkOptions,
        limits: TransportLimits,
        ttl_s: float,
        on_push: OnPush,
        tell: Tell,
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.refusals = Refusals()
        self.shelf = PayloadStore()
        self.roster = Roster(
            RosterMember(play.name, identity.peer_id, 0, roles=play.roles),
            swarm=play.swarm,
            protocol=play.protocol,
            session=secrets.token_hex(4),
            refusals=self.refusals,
        )
        self.addresses: tuple[str, ...] = ()
        self._fixed_name = play.fixed
        self._network = network
        self._ttl_s = ttl_s
        self._on_push = on_push
        self._tell = tell
        self._renewal = asyncio.Event()

    @property
    def running(self) -> bool:
        """Return whether the daemon is running."""
        return self.point.daemon.running

    async def open(self) -> None:
        """Join the swarm, read its roster and announce this peer to it.

        Raises:
            SwarmError: none of the peers to join answers, or the swarm plays another graph only.
        """
        self.point = await self._meeting_point()
        try:
            await self._listen()
            await self.look()
            self._require_same_graph()
            self._settle_name()
            await self._announce(directly=True)
        except BaseException:
            await self.point.close()
            raise
        self._upkeep = asyncio.create_task(self._keep())

    def renew_now(self) -> None:
        """Send a heartbeat now instead of at the next interval; call it on the loop."""
        self._renewal.set()

    async def look(self) -> None:
        """Update the roster with the heartbeats in the DHT."""
        for subkey, data in (await read_beats(self.point.dht, self.roster.swarm)).items():
            self.roster.take(data, subkey=subkey)

    async def leave(self) -> None:
        """Tell the members that this peer leaves, and end the daemon."""
        self._upkeep.cancel()
        try:
            if self.running:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GREETING_S):
                        await self._announce(left=True, directly=True)
        finally:
            await self.point.close()

    async def _meeting_point(self) -> MeetingPoint:
        own = HeartbeatValidator(self.roster.swarm, is_kept=self.roster.is_established)
        return await MeetingPoint.open(self.identity, self._network, validator=own, tell=self._tell)

    async def _listen(self) -> None:
        self.addresses = await self.point.addresses()
        self.streams = Streams(
            self.point.p2p,
            shelf=self.shelf,
            limits=self.limits,
            refusals=self.refusals,
            on_push=self._on_push,
            on_beat=lambda peer_id, data: self.roster.take(data, subkey=peer_id),
            addresses=self.roster.addresses,
        )
        await self.streams.open()
        self.point.daemon.on_end(self._renewal.set)

    def _settle_name(self) -> None:
        """Switch to a name that only this key can claim if another key claims this one; a name from the run stays."""
        roster, name = self.roster, self.roster.own.name
        if not roster.rivals:
            return
        rival = min(roster.rivals)
        if self._fixed_name or "@" in name:
            self._tell(f"peer {name!r}: {rival} claims this name, too; peers that meet both show each with its key")
            return
        roster.qualify_own_name()
        self._tell(f"peer {name!r}: the name is that of {rival} in swarm {roster.swarm!r}; this is {roster.own.name!r}")

    def _require_same_graph(self) -> None:
        """Raise `SwarmError` if the swarm plays only other graphs."""
        roster = self.roster
        strangers = roster.strangers()
        if not strangers:
            return
        games = "; ".join(f"{protocol[:12]} ({', '.join(names[:3])})" for protocol, names in strangers.items())
        text = f"swarm {roster.swarm!r}: another graph is played under this name: {games}"
        if len(roster.members()) == 1:
            own = roster.protocol[:12]
            raise SwarmError(f"{text}, but this peer's is {own}; give the same graph file, or another swarm name")
        self._tell(text)

    async def _announce(self, *, left: bool = False, directly: bool = False) -> None:
        """Store the own heartbeat in the DHT; with `directly`, also send it to every member at once."""
        beat = self._beat(left=left)
        data = beat.sealed(self.identity)
        stored = store_beat(self.point.dht, beat.swarm, self.identity.peer_id, data, beat.expires)
        is_stored, _ = await asyncio.gather(stored, self._tell_members(data) if directly else asyncio.sleep(0))
        if not is_stored:
            self.refusals.add(None, "dht", "the own heartbeat was not stored")

    async def _tell_members(self, data: bytes) -> None:
        """Send a heartbeat to all members; those that cannot be reached may still read it in the DHT."""
        own = self.identity.peer_id
        others = [member.peer_id for member in self.roster.members() if member.peer_id != own]
        calls = [self.streams.push(peer_id, data, timeout_s=GREETING_S, verb=BEAT) for peer_id in others]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, (SwarmError, PeerRefused)):
                raise outcome

    def _beat(self, *, left: bool) -> Heartbeat:
        now = time.time()
        return Heartbeat(
            swarm=self.roster.swarm,
            protocol=self.roster.protocol,
            name=self.roster.own.name,
            session=self.roster.session,
            round=self.roster.own.round,
            time=now,
            expires=now + self._ttl_s,
            left=left,
            roles=",".join(self.roster.own.roles),
            addresses=[address.rpartition("/p2p/")[0] for address in self.addresses[:8]],
        )

    async def _keep(self) -> None:
        """Renew the heartbeat and the roster every third of the TTL, and at once after `renew_now`."""
        gap_s = min(1.0, self._ttl_s / 10)  # rounds of milliseconds need no heartbeat each
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ttl_s / 3):
                    await self._renewal.wait()
            self._renewal.clear()
            try:
                async with asyncio.timeout(RENEW_S):
                    await self._renew()
            except Exception as error:  # of any kind: the upkeep must go on, and the refusal records the error
                self.refusals.add(None, "dht", f"{type(error).__name__}: {error}")
                self._renewal.set()
            await asyncio.sleep(gap_s)

    async def _renew(self) -> None:
        if not self.running:
            self._tell(f"the libp2p daemon has ended ({self.point.daemon.last_words()}); starting it again")
            await self.point.close()
            self.point = await self._meeting_point()
            await self._listen()
            await self.point.rejoin(self.roster.places())
        self.addresses = await self.point.addresses()
        await self._announce()
        await self.look()
        if len(self.roster.members()) == 1:
            await self.point.rejoin(self.roster.places())
