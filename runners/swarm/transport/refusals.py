"""Refused messages with their reasons: counted, bounded in number, and drained by the journal."""

import threading
from dataclasses import dataclass

MAX_PENDING = 256
MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class MessageRefusal:
    """One kind of refused message of a peer (None: unknown), and its count since the last `take`."""

    peer_id: str | None
    what: str
    """Kind of message: beat, push or fetch; or dht, for a failure of our own to keep the roster up to date."""
    reason: str
    count: int = 1


class Refusals:
    """Refusals not yet taken; thread-safe. Equal ones share a count; beyond `MAX_PENDING` kinds only `total` counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[tuple[str | None, str, str], int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Number of refusals since the start."""
        return self._total

    def add(self, peer_id: str | None, what: str, reason: object) -> None:
        """Record one refusal."""
        key = (peer_id, what, " ".join(str(reason).split())[:MAX_REASON])
        with self._lock:
            self._total += 1
            if key in self._pending or len(self._pending) < MAX_PENDING:
                self._pending[key] = self._pending.get(key, 0) + 1

    def take(self) -> list[MessageRefusal]:
        """Return and clear the refusals since the last call, in order of first occurrence."""
        with self._lock:
            pending, self._pending = self._pending, {}
        return [MessageRefusal(*key, count) for key, count in pending.items()]
