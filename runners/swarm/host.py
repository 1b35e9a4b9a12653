"""A peer's place in the swarm: who plays, announcements and payloads. Synchronous, for the thread that plays."""

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
    """Made by `start`; every method may be called from any thread. Use as a context manager, or call `close`."""

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
        """Take the place: start a libp2p daemon, join, find out who plays, and be on the roster.

        `on_push(peer_id, data)` hears of every announcement, on the host's thread: it must be quick, and what it
        raises is recorded, `PeerRefused` being said to the sender. `tell` hears one line about what the user should
        know. A heartbeat lives `ttl_s` seconds and is renewed every third of that.

        Raises:
            SwarmError: a taken port, an identity in use, none of the joined peers answers, the name is another
                peer's, or only other graphs are played under the swarm's name. Nothing is left running.
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
        """This peer's libp2p id."""
        return self._presence.identity.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """What others give to `--join`."""
        return self._presence.addresses

    @property
    def running(self) -> bool:
        """Whether the libp2p daemon lives; one that died is started again within seconds, and `tell` hears of it."""
        return not self._closed and self._presence.running

    def beat(self, round: int) -> None:
        """Tell the swarm which round this peer plays; returns at once."""
        self._presence.roster.enter(round)
        self._thread.loop.call_soon_threadsafe(self._presence.renew_now)

    def roster(self) -> list[RosterMember]:
        """The peers with a fresh, valid heartbeat of the same swarm and protocol, this one included, by name."""
        return self._presence.roster.members()

    def look(self) -> list[RosterMember]:
        """The roster, after a new look into the DHT: some 10 ms, or seconds where peers have just died."""
        self._thread.run(self._presence.look())
        return self.roster()

    def strangers(self) -> dict[str, list[str]]:
        """Other fingerprints that are played under this swarm's name, with the names of their peers."""
        return self._presence.roster.strangers()

    def push(self, peer_id: str, data: bytes, *, timeout_s: float = 10.0) -> Future[None]:
        """Send an announcement to another peer; done when that peer's `on_push` has returned.

        The future raises `Unreachable`, or `PeerRefused` where the peer did not take it.
        """
        most = self._presence.limits.push_bytes
        if len(data) > most:
            raise ValueError(f"an announcement of {len(data)} bytes; at most {most} are taken")
        return self._thread.submit(self._presence.streams.push(peer_id, data, timeout_s=timeout_s))

    def serve(self, key: str, payload: bytes) -> None:
        """Let others fetch a payload under a key of at most 256 bytes; it is kept, not copied, until `forget`."""
        self._presence.shelf.put(key, payload)

    def forget(self, key: str) -> None:
        """Serve a payload no more."""
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
        """Get what another peer serves; whether it is what was announced is the caller's to check.

        `watch` sees every piece of it as it comes, on the host's thread: a hash need not wait for the last.

        The future raises `NotHere`, `Unreachable`, or `PeerRefused` where it is larger than `max_bytes`. Cancelling
        the future ends the transfer.
        """
        fetched = self._presence.streams.fetch(peer_id, key, max_bytes=max_bytes, timeout_s=timeout_s, watch=watch)
        return self._thread.submit(fetched)

    def take_refusals(self) -> list[MessageRefusal]:
        """What was refused from the network since the last call."""
        return self._presence.refusals.take()

    def close(self) -> None:
        """Say goodbye, end the daemon and the thread; nothing happens the second time."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._thread.run(self._presence.leave())
        finally:
            self._thread.close()
            self._held.close()
