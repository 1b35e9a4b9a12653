"""The payloads that this peer serves to others."""

import threading

MAX_KEY = 256


class PayloadStore:
    """Served payloads by key; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._payloads: dict[str, bytes] = {}

    def put(self, key: str, payload: bytes) -> None:
        """Serve a payload under a key of at most `MAX_KEY` bytes, replacing any payload there."""
        assert 0 < len(key.encode()) <= MAX_KEY, key
        with self._lock:
            self._payloads[key] = payload

    def get(self, key: str) -> bytes | None:
        """Return the payload under a key, or None."""
        with self._lock:
            return self._payloads.get(key)

    def drop(self, key: str) -> None:
        """Stop serving a key; unknown keys are ignored."""
        with self._lock:
            self._payloads.pop(key, None)
