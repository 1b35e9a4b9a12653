"""Payloads that others may fetch."""

import threading

MAX_KEY = 256


class PayloadStore:
    """Payloads by key; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._payloads: dict[str, bytes] = {}

    def put(self, key: str, payload: bytes) -> None:
        """Serve a payload under a key of at most `MAX_KEY` bytes, in place of what was there."""
        assert 0 < len(key.encode()) <= MAX_KEY, key
        with self._lock:
            self._payloads[key] = payload

    def get(self, key: str) -> bytes | None:
        """The payload, None where there is none."""
        with self._lock:
            return self._payloads.get(key)

    def drop(self, key: str) -> None:
        """Serve it no more; nothing happens where it was not served."""
        with self._lock:
            self._payloads.pop(key, None)
