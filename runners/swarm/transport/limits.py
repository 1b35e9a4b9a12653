"""Limits on the memory, streams and time that one peer may use of another."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from genrl_graph.errors import PeerRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportLimits:
    """Bounds on the messages and requests of other peers; they cap the cost of any misbehaviour."""

    push_bytes: int = 320 << 10
    """Size of one announcement, inlined rows included."""
    push_bytes_per_s: float = 8e6
    """Average rate of one peer; bursts of four seconds' worth pass."""
    streams_per_peer: int = 16
    """Open streams of one peer."""
    streams: int = 256
    """Open streams of all peers together."""
    request_s: float = 10.0
    """Time for a whole request to arrive, or for a peer to read one chunk of a served payload."""
    serve_s: float = 300.0
    """Time for a peer to read a whole served payload."""


class OpenStreams:
    """Counts of open streams by peer."""

    def __init__(self, limits: TransportLimits) -> None:
        self._limits = limits
        self._taken: Counter[str] = Counter()

    @contextmanager
    def seat(self, peer_id: str) -> Iterator[None]:
        """Count one stream while the block runs; raises `PeerRefused` if the peer, or all together, have too many."""
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
    """Rate limit on the bytes of each peer: a token bucket of four seconds."""

    def __init__(self, bytes_per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_s
        self._burst = 4 * bytes_per_s
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def spend(self, peer_id: str, size: int) -> None:
        """Subtract `size` from the bucket of a peer; raises `PeerRefused` if it does not suffice."""
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
