"""Kill the parent that does not end on a signal: `python -I -S watchdog.py PARENT SECONDS`, a socket as stdin.

Python writes the number of each signal into the socket from C, whatever the parent is doing. Where it never returns to
Python code, because a library computes or waits and keeps the interpreter's lock, no thread of it could end it.
"""

import os
import select
import signal
import socket
import sys
import time

CHECK_S = 0.1
"""Seconds between checks of the parent after a signal."""
ALIVE_S = 10.0
"""Seconds between checks of the parent at other times: its sockets may live on in a fork of it."""


KILLED = (
    "genrl-graph: killed within a step, which is lost; what was committed to its folder, if it has one, is kept; the "
    "same command with --resume, or in Python resume=True, goes on from there\n"
)


def watch(parent: int, seconds: float, signals: socket.socket) -> None:
    """Kill the parent if a signal that is to end it is not taken from the socket within so many seconds."""
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    since: float | None = None
    while os.getppid() == parent:
        poll.poll(ALIVE_S * 1000)
        numbers = _peek(signals)
        if numbers == b"":  # the parent has ended
            return
        if numbers is None or not {signal.SIGINT, signal.SIGTERM} & set(numbers):
            since = None
        elif since is None:
            since = time.monotonic()
        elif time.monotonic() - since > seconds:
            os.write(2, KILLED.encode())
            os.kill(parent, signal.SIGKILL)
            return
        if numbers is not None:
            time.sleep(CHECK_S)


def _peek(signals: socket.socket) -> bytes | None:
    """Return the numbers of the signals in the socket, None if it has none, nothing if its other end is closed."""
    try:
        return signals.recv(64, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None


if __name__ == "__main__":
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # they are for the parent
    watch(int(sys.argv[1]), float(sys.argv[2]), socket.socket(fileno=0))
