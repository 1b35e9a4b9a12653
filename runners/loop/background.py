"""Steps that run in a thread while the next generator generates, or others are waited for: above all rewards."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
Key = tuple[str, str]
"""A node and a peer."""


class Ahead(Generic[T]):
    """What was started before its turn: one step after the other, in a thread that lives as long as there are any."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._started: dict[Key, Future[T]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._started

    def start(self, key: Key, work: Callable[[], T]) -> None:
        """Let the thread do it once it has done what came before."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._started[key] = self._thread.submit(work)

    def take(self, key: Key) -> Future[T] | None:
        """What was started for a step, which is then its own; None where it was not."""
        return self._started.pop(key, None)

    def end(self) -> None:
        """Wait for what runs and forget it; what has not begun never does."""
        self._started.clear()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
