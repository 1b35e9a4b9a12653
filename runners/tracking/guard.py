"""Guards that keep a failing or hanging tracker from ending the run."""

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
    """A tracker whose failures are counted and reported, not raised; `max_failures` in a row switch it off.

    Each kind of failure is reported once. A call has `limit_s` seconds: a longer one is abandoned in its thread and
    switches the tracker off at once. `KeyboardInterrupt` passes through.
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
        self._reported: set[tuple[str, str]] = set()
        self._in_a_row, self._hangs = 0, False
        trackers: list[Tracker] = []
        self._try("start", lambda: trackers.append(make()))
        self._tracker = trackers[0] if trackers and not self._hangs else None

    @property
    def on(self) -> bool:
        """Return whether the tracker still gets metrics."""
        return self._tracker is not None and not self._hangs and self._in_a_row < self._max_failures

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """Pass metrics to the tracker, unless it is off."""
        tracker = self._tracker
        if tracker is None or not self.on:
            return
        self._try("write", lambda: tracker.write(round, peer, dict(metrics)))
        if not self.on and not self._hangs:
            self._tell(f"tracker {self._name}: off after {self._in_a_row} failures in a row")

    def close(self) -> None:
        """Close the tracker, also one that is off, to store what it has; a hanging one is left alone."""
        if self._tracker is not None and not self._hangs:
            self._try("close", self._tracker.close)

    def _try(self, verb: str, call: Callable[[], None]) -> None:
        """Make a call in a thread of its own; count it where it raises or takes longer than `limit_s`."""
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
        if kind not in self._reported:
            self._reported.add(kind)
            reason = f"no answer in {self._limit_s:g} s" if self._hangs else f"{type(error).__name__}: {error}"
            end = "the run goes on without it" if self._hangs or verb == "start" else "the run goes on"
            self._tell(f"tracker {self._name}: cannot {verb}: {shorten(reason, LONGEST_REASON)}; {end}")


def _settle(done: "Future[None]", call: Callable[[], None]) -> None:
    """Make a call and set the future to its result or error."""
    try:
        call()
    except BaseException as error:  # raised again where the result is waited for
        done.set_exception(error)
    else:
        done.set_result(None)
