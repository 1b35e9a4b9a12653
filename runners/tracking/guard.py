"""What keeps a tracker that fails or hangs from harming the run."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from textwrap import shorten
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genrl_graph.runners.tracking.trackers import Tracker

LIMIT_S = 60.0
MAX_FAILURES = 3
LONGEST_REASON = 300


class GuardedTracker:
    """A tracker whose failures are counted and told, not raised; it is off after `max_failures` in a row.

    A failure of one kind is told once. A call has `limit_s` seconds: one that takes longer is left behind on its
    thread, and the tracker is off at once. `KeyboardInterrupt` passes through.
    """

    def __init__(
        self,
        name: str,
        make: "Callable[[], Tracker]",
        *,
        tell: Callable[[str], None],
        limit_s: float = LIMIT_S,
        max_failures: int = MAX_FAILURES,
    ) -> None:
        self.failures = 0
        self._name, self._tell, self._limit_s, self._max_failures = name, tell, limit_s, max_failures
        self._told: set[tuple[str, str]] = set()
        self._in_a_row, self._hangs = 0, False
        made: list[Tracker] = []
        self._try("start", lambda: made.append(make()))
        self._tracker = made[0] if made and not self._hangs else None

    @property
    def on(self) -> bool:
        """Whether numbers are still given on."""
        return self._tracker is not None and not self._hangs and self._in_a_row < self._max_failures

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """Give the numbers on, unless the tracker is off."""
        tracker = self._tracker
        if tracker is None or not self.on:
            return
        self._try("write", lambda: tracker.write(round, peer, dict(metrics)))
        if not self.on and not self._hangs:
            self._tell(f"tracker {self._name}: off after {self._in_a_row} failures in a row")

    def close(self) -> None:
        """Close the tracker, also one that is off, so that it keeps what it has; not one that hangs."""
        if self._tracker is not None and not self._hangs:
            self._try("close", self._tracker.close)

    def _try(self, verb: str, call: Callable[[], None]) -> None:
        done: Future[None] = Future()
        Thread(target=_settle, args=(done, call), name=f"tracker {self._name}", daemon=True).start()
        try:
            done.result(timeout=self._limit_s)
        except (Exception, SystemExit) as error:
            self._hangs = not done.done()
            self._count(verb, error)
        else:
            self._in_a_row = 0

    def _count(self, verb: str, error: BaseException) -> None:
        self.failures += 1
        self._in_a_row += 1
        kind = (verb, type(error).__name__)
        if kind not in self._told:
            self._told.add(kind)
            reason = f"no answer in {self._limit_s:g} s" if self._hangs else f"{type(error).__name__}: {error}"
            end = "the run goes on without it" if self._hangs or verb == "start" else "the run goes on"
            self._tell(f"tracker {self._name}: cannot {verb}: {shorten(reason, LONGEST_REASON)}; {end}")


def _settle(done: "Future[None]", call: Callable[[], None]) -> None:
    try:
        call()
    except BaseException as error:  # raised again where the result is waited for
        done.set_exception(error)
    else:
        done.set_result(None)
