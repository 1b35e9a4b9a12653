"""Steps that run in a background thread beside a generator or while an exchange waits for peers: mostly rewards."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
Key = tuple[str, str]
"""A step, as the schedule prints it, and a peer."""


class BackgroundSteps(Generic[T]):
    """Runs background steps one after the other in one thread, which ends with the `with` block."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._started: dict[Key, Future[T]] = {}

    def __enter__(self) -> "BackgroundSteps[T]":
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for the running step and cancel those that have not begun."""
        self._started.clear()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def start(self, key: Key, work: Callable[[], T]) -> None:
        """Run `work` once the steps that were started before it are done."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._started[key] = self._thread.submit(work)

    def take(self, key: Key) -> Future[T] | None:
        """Return the future of a step and forget it; None where the step was not started."""
        return self._started.pop(key, None)
