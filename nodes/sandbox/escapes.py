"""Ways out of a sandbox, tried from inside: prints what succeeds, one line each, then `DONE`.

Its source runs in the sandbox. Standard input: a folder outside with a file `secret`, a port of the loopback device
that listens, and the limits.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

MARK, DONE = "mark", "tried"
_NEW_USER = 0x10000000


def network(port: int) -> bool:
    """Connect to a port outside."""
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    return True


def local_sockets() -> bool:
    """Make a socket at all: some kinds know no namespace."""
    socket.socket(socket.AF_UNIX).close()
    return True


def read_outside(folder: str) -> bool:
    """Read a file outside that everybody may read; the parent looks for what is printed."""
    print(Path(folder, "secret").read_text())
    return True


def write_outside(folder: str) -> bool:
    """Write a file in a folder outside that everybody may write."""
    Path(folder, MARK).touch()
    return True


def write_system() -> bool:
    """Write anywhere but in /tmp."""
    return any(_writes(Path(folder, MARK)) for folder in ("/", "/usr", "/py", "/dev", "/dev/shm", "/proc"))


def _writes(path: Path) -> bool:
    try:
        path.touch()
    except OSError:
        return False
    return True


def fill_tmp(size_mb: int) -> bool:
    """Write more to /tmp than it may hold, in files that are each small enough."""
    for number in range(3):
        Path("/tmp", str(number)).write_bytes(bytes(size_mb * 2**19 + 2**12))
    return True


def environment() -> bool:
    """See variables of the parent."""
    return not set(os.environ) <= {"PATH", "HOME", "LANG", "PYTHONHASHSEED", "PWD", "LC_CTYPE"}


def processes(most: int) -> bool:
    """Start more processes than allowed."""
    reader, writer = os.pipe()
    for started in range(most):
        try:
            child = os.fork()
        except OSError:
            return started >= most
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    return True


def foreign_processes() -> bool:
    """See processes outside."""
    return max(int(folder.name) for folder in Path("/proc").glob("[0-9]*")) > 64


def memory(size_mb: int) -> bool:
    """Hold more memory than allowed."""
    return bool(bytearray(size_mb * 2**20))


def uncounted_memory() -> bool:
    """Hold memory that counts for no process."""
    return os.memfd_create("uncounted") > 0


def descriptors() -> bool:
    """Inherit open files, but for the standard ones and that of the listing."""
    return len(list(Path("/proc/self/fd").iterdir())) > 4


def user_namespace() -> bool:
    """Become root of a namespace of its own."""
    import ctypes  # some builds of Python lack it

    return bool(ctypes.CDLL(None).unshare(_NEW_USER) == 0)


def privileges() -> bool:
    """Have capabilities, gain new ones, or make unfiltered system calls."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status["CapEff"], 16) != 0 or status["NoNewPrivs"] != "1" or status["Seccomp"] != "2"


def main() -> None:
    """Try all ways; an error of any kind is the wall."""
    folder, port, limits = sys.stdin.read().split("\n")
    most = json.loads(limits)
    ways: dict[str, Callable[[], bool]] = {
        "reach the network": lambda: network(int(port)),
        "make sockets": local_sockets,
        "read files of this machine": lambda: read_outside(folder),
        "write files of this machine": lambda: write_outside(folder),
        "write outside of /tmp": write_system,
        "fill /tmp beyond its size": lambda: fill_tmp(most["tmp_mb"]),
        "see the environment": environment,
        "see other processes": foreign_processes,
        "hold more memory than allowed": lambda: memory(most["memory_mb"]),
        "hold memory that is not counted": uncounted_memory,
        "inherit open files": descriptors,
        "make user namespaces": user_namespace,
        "have privileges": privileges,
        "start more processes than allowed": lambda: processes(most["processes"]),
    }
    for what, way in ways.items():
        try:
            succeeded = way()
        except (OSError, MemoryError, ImportError):
            continue
        if succeeded:
            print(what)
    print(DONE)


if __name__ == "__main__":
    main()
