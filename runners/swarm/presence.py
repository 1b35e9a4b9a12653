"""A peer's presence in the swarm, kept up on the event loop: its heartbeat, its view of the others, its daemon."""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from genrl_graph.errors import ParamError, PeerRefused, SwarmError
from genrl_graph.runners.swarm.roster import Roster, RosterMember
from genrl_graph.runners.swarm.transport.dht import read_beats, store_beat
from genrl_graph.runners.swarm.transport.heartbeat import Heartbeat
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.limits import TransportLimits
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.runners.swarm.transport.payloads import PayloadStore
from genrl_graph.runners.swarm.transport.point import MeetingPoint, Tell
from genrl_graph.runners.swarm.transport.refusals import Refusals
from genrl_graph.runners.swarm.transport.streams import BEAT, Streams

GREETING_S = 2.0
RENEW_S = 60.0  # a daemon that hangs must not end the upkeep
OnPush = Callable[[str, bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """What a peer plays and as whom; each of letters, digits, `.`, `_`, `-`, at most 64."""

    swarm: str
    """Name of the swarm; peers of one name and one protocol meet."""
    protocol: str
    """Fingerprint that peers have to share."""
    name: str
    """The peer's name, which seeds use."""

    def __post_init__(self) -> None:
        for field, value in (("swarm", self.swarm), ("protocol", self.protocol), ("name", self.name)):
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
                raise ParamError(f"{field}={value!r}: wants 1 to 64 letters, digits, `.`, `_` or `-`")


class Presence:
    """`open`, `look` and `leave` run on the loop; the rest may be used from any thread."""

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
            RosterMember(play.name, identity.peer_id, 0),
            swarm=play.swarm,
            protocol=play.protocol,
            session=secrets.token_hex(4),
            refusals=self.refusals,
        )
        self.addresses: tuple[str, ...] = ()
        self._network = network
        self._ttl_s = ttl_s
        self._on_push = on_push
        self._tell = tell
        self._due = asyncio.Event()

    @property
    def running(self) -> bool:
        """Whether the daemon lives."""
        return self.point.daemon.running

    async def open(self) -> None:
        """Join, find out who plays, and be on the roster.

        Raises:
            SwarmError: nobody to join answers, the name is taken, or another graph is played here.
        """
        self.point = await MeetingPoint.open(self.identity, self._network, tell=self._tell)
        try:
            await self._listen()
            await self.look()
            self._require_place()
            await self._announce(directly=True)
        except BaseException:
            await self.point.close()
            raise
        self._upkeep = asyncio.create_task(self._keep())

    def renew_now(self) -> None:
        """Tell the swarm what has changed, without waiting for the next heartbeat; called on the loop."""
        self._due.set()

    async def look(self) -> None:
        """Take in what the DHT holds."""
        for subkey, data in (await read_beats(self.point.dht, self.roster.swarm)).items():
            self.roster.take(data, subkey=subkey)

    async def leave(self) -> None:
        """Say goodbye and end the daemon."""
        self._upkeep.cancel()
        try:
            if self.running:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GREETING_S):
                        await self._announce(left=True, directly=True)
        finally:
            await self.point.close()

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
        self.point.daemon.on_end(self._due.set)

    def _require_place(self) -> None:
        """The name must be free, and the game must be the one that is played here."""
        roster = self.roster
        if roster.rival is not None:
            raise SwarmError(
                f"peer {roster.own.name!r}: the name is taken in swarm {roster.swarm!r} by {roster.rival}"
                f"; choose another name or, if that was this peer, use its identity file or wait {self._ttl_s:.0f} s"
            )
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
        """Put the own heartbeat into the DHT, and send it straight to the members too where they should know now."""
        beat = self._beat(left=left)
        data = beat.sealed(self.identity)
        stored = store_beat(self.point.dht, beat.swarm, self.identity.peer_id, data, beat.expires)
        kept, _ = await asyncio.gather(stored, self._tell_members(data) if directly else asyncio.sleep(0))
        if not kept:
            self.refusals.add(None, "dht", "the own heartbeat was not stored")

    async def _tell_members(self, data: bytes) -> None:
        """Send a heartbeat to all members; who is not there hears of it from the DHT, or not at all."""
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
            addresses=[address.rpartition("/p2p/")[0] for address in self.addresses[:8]],
        )

    async def _keep(self) -> None:
        """Renew the heartbeat, at once where the round has changed, and look who else is there."""
        gap_s = min(1.0, self._ttl_s / 10)  # rounds of milliseconds need not all be told
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ttl_s / 3):
                    await self._due.wait()
            self._due.clear()
            try:
                async with asyncio.timeout(RENEW_S):
                    await self._renew()
            except Exception as error:  # of whatever kind: the upkeep goes on, and the record says what was wrong
                self.refusals.add(None, "dht", f"{type(error).__name__}: {error}")
                self._due.set()
            await asyncio.sleep(gap_s)

    async def _renew(self) -> None:
        if not self.running:
            self._tell(f"the libp2p daemon has ended ({self.point.daemon.last_words()}); starting it again")
            await self.point.close()
            self.point = await MeetingPoint.open(self.identity, self._network, tell=self._tell)
            await self._listen()
            await self.point.rejoin(self.roster.places())
        self.addresses = await self.point.addresses()
        await self._announce()
        await self.look()
        if len(self.roster.members()) == 1:
            await self.point.rejoin(self.roster.places())
