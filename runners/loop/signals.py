"""Signals: SIGINT and SIGTERM end a run after the running step is committed; a second one ends it at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Raised where a signal ends the run; `exit_code` is 128 + the number of the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}; what was committed is kept")
        self.exit_code = 128 + signum


class Stop:
    """Remembers the first signal; `check` raises `Interrupted` from then on."""

    def __init__(self) -> None:
        self.signum: int | None = None

    @property
    def wanted(self) -> bool:
        """Return whether a signal was received."""
        return self.signum is not None

    def check(self) -> None:
        """Raise `Interrupted` where a signal was received; called after every commit."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Remember the first signal; give a later one its default effect."""
        if self.signum is None:
            self.signum = signum
            print("genrl-graph: stopping after this step; once more ends at once", file=sys.stderr, flush=True)
            return
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM inside the block; outside the main thread, where Python cannot, leave them alone."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {signum: signal.signal(signum, stop.receive) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Let signals end the process inside the block, where a library waits in C code and nothing is committed yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
