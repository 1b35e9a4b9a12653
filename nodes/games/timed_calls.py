"""Call code of environments with a limit of time, in a thread that is abandoned if a call exceeds it."""

import threading
import weakref
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from genrl_graph.nodes.games.game import GameError

T = TypeVar("T")


class TimedCalls:
    """Runs calls one after another in one thread, so that environments that know their thread meet it again.

    Python cannot stop a thread: one whose call exceeds the limit is left behind, as a daemon that ends with the
    process, and the next call gets a new thread. All objects compare equal, as a node's cache must.
    """

    def __init__(self) -> None:
        self._thread: _Thread | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimedCalls)

    __hash__ = None  # type: ignore[assignment]

    def call(self, function: Callable[[], T], *, limit_s: float) -> T:
        """Return what the function returns, and raise what it raises; exits become `GameError`.

        Raises `GameError` if it takes longer than `limit_s` seconds.
        """
        if self._thread is None or not self._thread.lives:  # threads do not survive a fork
            self._thread = _Thread()
        self._thread.calls.put(function)
        try:
            outcome: Callable[[], T] = self._thread.outcomes.get(timeout=min(limit_s, threading.TIMEOUT_MAX))
        except BaseException as error:  # also a signal that interrupts the wait: the call's outcome is never read
            self._thread.end()
            self._thread = None
            if isinstance(error, Empty):
                raise GameError(f"the environment did not return within {limit_s:g} s") from None
            raise
        return outcome()


class _Thread:
    """A daemon thread that runs the functions put into `calls`, until `end` or until this object is gone."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self.outcomes: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self.end = weakref.finalize(self, self.calls.put, None)
        serving = threading.Thread(target=_serve, args=(self.calls, self.outcomes), name="environment", daemon=True)
        self._serving = serving
        serving.start()

    @property
    def lives(self) -> bool:
        """Return whether the thread takes calls in this process."""
        return self._serving.is_alive()


def _serve(calls: "SimpleQueue[Callable[[], Any] | None]", outcomes: "SimpleQueue[Callable[[], Any]]") -> None:
    while (function := calls.get()) is not None:
        outcomes.put(_outcome(function))


def _outcome(function: Callable[[], T]) -> Callable[[], T]:
    """Return a function that returns or raises what this one does."""
    try:
        return partial(_given, function())
    except Exception as error:  # environments are third-party code and raise anything
        return partial(_raised, error)
    except BaseException as error:  # `exit()` in an environment ends its episode, not the run
        return partial(_raised, GameError(f"{type(error).__name__}: {error}"))


def _given(value: T) -> T:
    return value


def _raised(error: Exception) -> Any:
    raise error
