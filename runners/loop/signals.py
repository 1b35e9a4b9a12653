"""Signals: SIGINT and SIGTERM end a run after the running step, or within seconds; a second one ends it at once."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

from genrl_graph.errors import ExchangeTimeout, NodeFailed, SwarmError
from genrl_graph.runners.loop import watchdog

GRACE_S = 3.0
"""Seconds from the first signal until the process is ended, wherever it is."""
KILL_S = 3.8
"""Seconds until a process is killed that has not ended itself, because it never returns to Python code."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Raised where a signal ends the run; `exit_code` is 128 + the number of the signal.

    `left` says what is left of the run, and how it goes on.
    """

    def __init__(self, signum: int, left: str = "") -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}{left}")
        self.exit_code = 128 + signum


class Stop:
    """Remembers the first signal; `check` raises `Interrupted` from then on.

    A step that is still running after `GRACE_S` seconds is lost: code of a node, or of a library, may never return,
    and a run that loses a step resumes as after a crash. `left` ends the message of a run that is interrupted: what is
    left of it, see `what_is_left`.
    """

    def __init__(self, *, notice: str = "stopping after this step; once more ends at once") -> None:
        self.signum: int | None = None
        self._notice = notice
        self.left = ""

    @property
    def wanted(self) -> bool:
        """Return whether a signal was received."""
        return self.signum is not None

    def check(self) -> None:
        """Raise `Interrupted` where a signal was received; called after every commit."""
        if self.signum is not None:
            raise Interrupted(self.signum, self.left)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Remember the first signal; give a later one its default effect."""
        if self.signum is None:
            self.signum = signum
            # not by `print`: the main thread may be writing to sys.stderr, which is not reentrant
            os.write(2, f"genrl-graph: {self._notice}\n".encode())
            return
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


class _Deadline:
    """Ends this process `GRACE_S` seconds after a signal that nobody has taken.

    Python calls handlers in the main thread, between two of its instructions; a library may keep it from there. The
    numbers of signals are therefore read from a socket, into which Python writes them at once: by a thread, and by a
    process of its own, for libraries that keep the interpreter's lock.
    """

    def __init__(self) -> None:
        self.stop: Stop | None = None  # of the run that is played
        self._read, self.write = socket.socketpair()
        self.write.setblocking(False)
        command = [sys.executable, "-I", "-S", watchdog.__file__, str(os.getpid()), str(KILL_S)]
        self._watchdog = subprocess.Popen(
            command, stdin=self._read.fileno(), stdout=subprocess.DEVNULL, start_new_session=True
        )
        threading.Thread(target=self._wait, name="signals", daemon=True).start()
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # signals of a fork are its own
        atexit.register(self._close)

    def take(self) -> None:
        """Take all signals from the socket: the run that they were for has ended."""
        while self._receive(socket.MSG_DONTWAIT):
            pass

    def _wait(self) -> None:
        """Wait for a signal, then for somebody to take it; end the process where nobody does."""
        while numbers := self._receive(socket.MSG_PEEK):
            signum = next((number for number in numbers if number in SIGNALS), None)
            if signum is None:
                self.take()
                continue
            ends = time.monotonic() + GRACE_S
            while self._receive(socket.MSG_PEEK | socket.MSG_DONTWAIT) and time.monotonic() < ends:
                time.sleep(0.05)
            if time.monotonic() >= ends:
                self.take()  # else the watchdog, too, says that it ends this process
                _end(signum, self.stop.left if self.stop is not None else "")

    def _receive(self, flags: int) -> bytes:
        try:
            return self._read.recv(64, flags)
        except OSError:  # none is there, or the socket is closed
            return b""

    def _close(self) -> None:
        """End the watchdog, which may sleep after a signal."""
        self._watchdog.kill()
        self._watchdog.wait()


@cache
def _deadline() -> _Deadline:
    """Return the one deadline of this process, made at its first run."""
    return _Deadline()


def _end(signum: int, left: str) -> None:
    """End the process without waiting for the main thread, which may hold the lock of `sys.stderr`."""
    name = signal.Signals(signum).name
    text = f"genrl-graph: ended by {name} within a step, which is lost{left}\n"
    os.write(2, text.encode())
    os._exit(128 + signum)


def what_is_left(folder: Path | None) -> str:
    """Return what is left of an interrupted run, and how to resume it; the command is right for every runner.

    `folder` is None before the first write.
    """
    if folder is None:
        return "; nothing was written yet; the same command starts it again"
    how = f"the same command with `-o {folder} --resume`, or in Python `out={str(folder)!r}, resume=True`"
    return f"; what was committed is kept; {how}, goes on from there"


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
    deadline = _deadline()
    deadline.stop = stop
    before = {signum: signal.signal(signum, stop.receive) for signum in SIGNALS}
    woken = signal.set_wakeup_fd(deadline.write.fileno(), warn_on_full_buffer=False)
    try:
        yield stop
    except (NodeFailed, ExchangeTimeout, SwarmError) as error:
        if stop.signum is None:
            raise
        raise Interrupted(stop.signum, stop.left) from error
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(woken)
        deadline.take()
        deadline.stop = None


@contextmanager
def noted_signals(stop: Stop) -> Iterator[None]:
    """Let `stop` remember signals inside the block, whose owner ends in its own time: there is no deadline."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, stop.receive) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Let signals end the process inside the block, where nothing is committed yet and libraries are in the way.

    Some wait in C code, and some go on after a `KeyboardInterrupt`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
