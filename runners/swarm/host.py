"""The synchronous interface of a peer to the swarm: its roster, announcements and payloads."""

import atexit
import contextlib
from collections.abc import Callable
from concurrent.futures import Future

from genrl_graph.runners.swarm.presence import OnPush, PeerIdentity, Presence
from genrl_graph.runners.swarm.roster import RosterMember
from genrl_graph.runners.swarm.transport.event_loop import LoopThread
from genrl_graph.runners.swarm.transport.heartbeat import MAX_TTL_S
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.limits import TransportLimits
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.runners.swarm.transport.point import Tell
from genrl_graph.runners.swarm.transport.refusals import MessageRefusal

TTL_S = 30.0

__all__ = ["Host", "PeerIdentity"]


def _ignore(peer_id: str, data: bytes) -> None:
    """Take an announcement and do nothing with it."""


class Host:
    """A peer's connection to the swarm, made by `start`; thread-safe. Use it as a context manager, or call `close`."""

    def __init__(self, presence: Presence, thread: LoopThread) -> None:
        self._presence = presence
        self._thread = thread
        self._held = contextlib.ExitStack()
        self._closed = False

    @classmethod
    def start(
        cls,
        identity: Identity,
        play: PeerIdentity,
        *,
        network: NetworkOptions | None = None,
        limits: TransportLimits | None = None,
        ttl_s: float = TTL_S,
        on_push: OnPush = _ignore,
        tell: Tell = lambda text: None,
    ) -> "Host":
        """Start a libp2p daemon, join the swarm, read its roster and announce this peer to it.

        `on_push(peer_id, data)` is called with every announcement, on the host's thread: it must be quick. Errors that
        it raises are recorded; `PeerRefused` is also reported to the sender. `tell` gets one-line messages for the
        user. A heartbeat is valid for `ttl_s` seconds and renewed every third of that.

        Raises:
            SwarmError: a taken port, an identity in use, none of the joined peers answers, or only other graphs are
                played under the swarm's name. Nothing is left running.
        """
        if not 0 < ttl_s <= MAX_TTL_S:
            raise ValueError(f"ttl_s={ttl_s}: wants more than 0 and at most {MAX_TTL_S:g} seconds")
        presence = Presence(
            identity,
            play,
            network=network or NetworkOptions(),
            limits=limits or TransportLimits(),
            ttl_s=ttl_s,
            on_push=on_push,
            tell=tell,
        )
        host = cls(presence, LoopThread(f"swarm-{play.name}"))
        try:
            host._held.enter_context(identity.held())
            host._thread.run(presence.open())
        except BaseException:
            host._thread.close()
            host._held.close()
            raise
        atexit.register(host.close)
        return host

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def peer_id(self) -> str:
        """Return this peer's libp2p id."""
        return self._presence.identity.peer_id

    @property
    def name(self) -> str:
        """Return this peer's name; where another key has the one that was asked for, it ends with `@` and its key."""
        return self._presence.roster.own.name

    @property
    def own(self) -> RosterMember:
        """Return this peer as a member of the swarm."""
        return self._presence.roster.own

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the addresses that others pass to `--join`."""
        return self._presence.addresses

    @property
    def running(self) -> bool:
        """Return whether the libp2p daemon is running; a dead one restarts within seconds, and `tell` reports it."""
        return not self._closed and self._presence.running

    def beat(self, round: int) -> None:
        """Tell the swarm the round that this peer plays, without waiting for delivery."""
        self._presence.roster.enter(round)
        self._thread.loop.call_soon_threadsafe(self._presence.renew_now)

    def roster(self) -> list[RosterMember]:
        """Return the peers with a fresh heartbeat of this swarm and protocol, sorted by name, this one included."""
        return self._presence.roster.members()

    def establish(self, peer_id: str) -> None:
        """Note that a peer has served rows in time: a flood of new peers cannot take its place or its name."""
        self._presence.roster.establish(peer_id)

    def name_of(self, peer_id: str) -> str:
        """Return the name under which a peer is shown, its id if it is not known."""
        return self._presence.roster.name_of(peer_id) or peer_id

    def look(self) -> list[RosterMember]:
        """Read the DHT and return the updated roster: takes about 10 ms, or seconds if peers have just died."""
        self._thread.run(self._presence.look())
        return self.roster()

    def strangers(self) -> dict[str, list[str]]:
        """Return the other protocols played under this swarm's name, with the names of their peers."""
        return self._presence.roster.strangers()

    def push(self, peer_id: str, data: bytes, *, timeout_s: float = 10.0) -> Future[None]:
        """Send an announcement to another peer; the future is done when that peer's `on_push` has returned.

        The future raises `Unreachable`, or `PeerRefused` if the peer did not accept it.
        """
        most = self._presence.limits.push_bytes
        if len(data) > most:
            raise ValueError(f"an announcement of {len(data)} bytes; at most {most} are taken")
        return self._thread.submit(self._presence.streams.push(peer_id, data, timeout_s=timeout_s))

    def serve(self, key: str, payload: bytes) -> None:
        """Serve a payload under a key of at most 256 bytes until `forget`; the bytes are not copied."""
        self._presence.shelf.put(key, payload)

    def forget(self, key: str) -> None:
        """Stop serving a payload."""
        self._presence.shelf.drop(key)

    def fetch(
        self,
        peer_id: str,
        key: str,
        *,
        max_bytes: int,
        timeout_s: float,
        watch: Callable[[bytes], object] = lambda chunk: None,
    ) -> Future[bytearray]:
        """Fetch a payload from another peer; the caller must check that it matches the announcement.

        `watch` is called with each chunk as it arrives, on the host's thread, for instance to hash it meanwhile.

        The future raises `PayloadMissing`, `Unreachable`, or `PeerRefused` if the payload exceeds `max_bytes`.
        Cancelling the future ends the transfer.
        """
        fetched = self._presence.streams.fetch(peer_id, key, max_bytes=max_bytes, timeout_s=timeout_s, watch=watch)
        return self._thread.submit(fetched)

    def take_refusals(self) -> list[MessageRefusal]:
        """Return and clear the messages refused since the last call."""
        return self._presence.refusals.take()

    def close(self) -> None:
        """Leave the swarm and end the daemon and the thread; further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._thread.run(self._presence.leave())
        finally:
            self._thread.close()
            self._held.close()
