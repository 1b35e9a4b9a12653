"""Signals: SIGINT and SIGTERM end a run after the running step, or within seconds; a second one ends it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from genrl_graph.errors import ExchangeTimeout, NodeFailed, SwarmError

GRACE_S = 4.0
"""Seconds from the first signal until the process is ended, wherever it is."""


class Interrupted(Exception):
    """Raised where a signal ends the run; `exit_code` is 128 + the number of the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}; what was committed is kept")
        self.exit_code = 128 + signum


class Stop:
    """Remembers the first signal; `check` raises `Interrupted` from then on.

    A step that is still running after `GRACE_S` seconds is lost: code of a node, or of a library, may never return,
    and a run that loses a step resumes as after a crash.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._deadline: threading.Timer | None = None

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
            # not by `print`: the main thread may be writing to sys.stderr, which is not reentrant
            os.write(2, b"genrl-graph: stopping after this step; once more ends at once\n")
            self._deadline = threading.Timer(GRACE_S, self._end)
            self._deadline.daemon = True
            self._deadline.start()
            return
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def close(self) -> None:
        """Let the process live: the run has ended."""
        if self._deadline is not None:
            self._deadline.cancel()

    def _end(self) -> None:
        """End the process without waiting for the main thread, which may hold the lock of `sys.stderr`."""
        assert self.signum is not None
        name = signal.Signals(self.signum).name
        text = f"genrl-graph: ended by {name} within a step, which is lost; what was committed is kept\n"
        os.write(2, text.encode())
        os._exit(128 + self.signum)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM inside the block; outside the main thread, where Python cannot, leave them alone.

    A node or an exchange that fails after a signal raises `Interrupted`: what it needs, such as a worker process,
    another rank or the daemon, may have got the signal, too.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {signum: signal.signal(signum, stop.receive) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except (NodeFailed, ExchangeTimeout, SwarmError) as error:
        if stop.signum is None:
            raise
        raise Interrupted(stop.signum) from error
    finally:
        stop.close()
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
