"""Run a script in a child process and end all that it leaves behind: `python -P supervisor.py SCRIPT ARGUMENT...`.

Code of a worker may start processes that leave its process group, outlive it, or keep its pipes open. This process
therefore adopts them (PR_SET_CHILD_SUBREAPER) and kills them when the script ends, on SIGTERM, or, after a grace
period, when the parent has hung up stdin. It ends with the exit code or signal of the script, after all of them: then
no process holds the pipes. Imports only the standard library.
"""

import contextlib
import ctypes
import math
import os
import resource
import runpy
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

EXIT_GRACE_S = 1.0
"""Seconds that an idle script has after the parent hung up, to exit by itself and run its exit handlers."""
KILL_S = 3.0
"""Seconds after which descendants that cannot be killed, such as those in a system call, are left to the system."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    """Run the script in a child process, supervise it, and end as it ended."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeups, wake = os.pipe()
    os.set_blocking(wakeups, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)  # from here on the number of each signal arrives in the pipe
    for signum in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    supervisor = os.getpid()
    script = os.fork()
    if script == 0:
        _leave(supervisor, wakeups, wake)
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    supervised = Supervised(script)
    supervised.wait(wakeups)
    supervised.end()
    _exit_as(supervised.status)


def _leave(supervisor: int, *pipes: int) -> None:
    """Turn a fork of the supervisor into a process of its own group that does not outlive it."""
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    for pipe in pipes:
        os.close(pipe)
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)


class Supervised:
    """A script with all its descendants; `status` is its wait status, None while it runs."""

    def __init__(self, script: int) -> None:
        self.script = script
        self.status: int | None = None

    def wait(self, wakeups: int) -> None:
        """Wait until the script ends, SIGTERM arrives, or the grace period after a hang-up of stdin is over."""
        poll = select.poll()
        poll.register(sys.stdin.fileno(), 0)  # no events: poll always reports a hang-up
        poll.register(wakeups, select.POLLIN)
        deadline = math.inf
        while self.reap() and self.status is None and (left := deadline - time.monotonic()) > 0:
            ready = {descriptor for descriptor, _ in poll.poll(None if left == math.inf else left * 1000)}
            if wakeups in ready and signal.SIGTERM in os.read(wakeups, 4096):
                return
            if sys.stdin.fileno() in ready:
                poll.unregister(sys.stdin.fileno())
                deadline = time.monotonic() + EXIT_GRACE_S

    def end(self) -> None:
        """Kill all descendants: those that lose their parent become children of this process, generation by generation.

        Only children are signalled: nobody else reaps them, so their ids cannot have passed to other processes.
        """
        deadline = time.monotonic() + KILL_S
        while self.reap() and time.monotonic() < deadline:
            for pid in _children() or ([self.script] if self.status is None else []):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def reap(self) -> bool:
        """Reap children that have ended; return whether any is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.script:
                self.status = status


def _children() -> list[int]:
    """Return the ids of this process's children, those that it adopted included; none where there is no /proc."""
    return [pid for pid, parent in _processes() if parent == os.getpid()]


def _processes() -> Iterator[tuple[int, int]]:
    """Yield the id of each process with that of its parent."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state = (folder / "stat").read_bytes().rpartition(b")")[2].split()  # its name may hold anything but this
            yield int(folder.name), int(state[1])


def _prctl(option: int, value: int) -> None:
    """Set an option of this process; only Linux has them."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(option, value, 0, 0, 0)


def _exit_as(status: int | None) -> None:
    """Exit with the exit code of a wait status, or by its signal, without a second core dump."""
    if status is None:
        os._exit(1)
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL needs no default
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
