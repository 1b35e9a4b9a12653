"""What was refused from the network and why: counted, bounded, taken by whoever journals it."""

import threading
from dataclasses import dataclass

MAX_PENDING = 256
MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class MessageRefusal:
    """What a peer (None: unknown) did that was refused, how often since it was last taken."""

    peer_id: str | None
    what: str
    """beat, push, fetch, or dht: what failed in the own upkeep of the roster."""
    reason: str
    count: int = 1


class Refusals:
    """Thread-safe; equal ones are counted, new ones beyond the bound are only counted in `total`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[tuple[str | None, str, str], int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """All that was ever refused."""
        return self._total

    def add(self, peer_id: str | None, what: str, reason: object) -> None:
        """Record one."""
        key = (peer_id, what, " ".join(str(reason).split())[:MAX_REASON])
        with self._lock:
            self._total += 1
            if key in self._pending or len(self._pending) < MAX_PENDING:
                self._pending[key] = self._pending.get(key, 0) + 1

    def take(self) -> list[MessageRefusal]:
        """What was recorded since the last call, in the order of its first time."""
        with self._lock:
            pending, self._pending = self._pending, {}
        return [MessageRefusal(*key, count) for key, count in pending.items()]
