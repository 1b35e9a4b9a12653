"""What one peer may take of another's memory, streams and time."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from genrl_graph.errors import PeerRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportLimits:
    """Bounds on what others send and ask; each is the whole cost that a peer's misbehaviour can have."""

    push_bytes: int = 320 << 10
    """Of one announcement, payload included."""
    push_bytes_per_s: float = 8e6
    """Of one peer, on average; a burst of four seconds is let through."""
    streams_per_peer: int = 16
    """At a time, from one peer."""
    streams: int = 256
    """At a time, from all."""
    request_s: float = 10.0
    """Within this a request has arrived whole, or a served chunk is taken."""
    serve_s: float = 300.0
    """Within this a served payload is taken whole."""


class OpenStreams:
    """Streams that are open, by peer."""

    def __init__(self, limits: TransportLimits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()

    @contextmanager
    def seat(self, peer_id: str) -> Iterator[None]:
        """Hold a seat; raises `PeerRefused` where the peer, or all peers together, hold too many."""
        if self._taken[peer_id] >= self._limits.streams_per_peer:
            raise PeerRefused(f"stream: {self._limits.streams_per_peer} streams of this peer are open")
        if self._taken.total() >= self._limits.streams:
            raise PeerRefused(f"stream: {self._limits.streams} streams are open")
        self._taken[peer_id] += 1
        try:
            yield
        finally:
            self._taken[peer_id] -= 1
            if not self._taken[peer_id]:
                del self._taken[peer_id]


class Meter:
    """Bytes that each peer may still send: a bucket that refills."""

    def __init__(self, bytes_per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_s
        self._burst = 4 * bytes_per_s
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def spend(self, peer_id: str, size: int) -> None:
        """Raise `PeerRefused` where the peer sends more than its share."""
        now = self._clock()
        left = self._now_left(peer_id, now)
        if size > left:
            raise PeerRefused(f"stream: more than {self._rate / 1e6:g} MB/s")
        if len(self._left) > 1024:
            self._left = {id: entry for id, entry in self._left.items() if self._now_left(id, now) < self._burst}
        self._left[peer_id] = (left - size, now)

    def _now_left(self, peer_id: str, now: float) -> float:
        left, since = self._left.get(peer_id, (self._burst, now))
        return min(self._burst, left + (now - since) * self._rate)
