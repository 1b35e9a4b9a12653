"""Refuse file operations of a process with an error of the system, at any of them, whoever makes it.

A forked process installs a seccomp filter by which the kernel asks this process about each operation. Libraries in C
and Rust, other threads and worker processes are therefore asked about too, and nothing of ours is replaced.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# the numbers of the calls, and which of their arguments are a handle, a folder's handle and a path, and flags
_X86_64 = {
    "open": (2, 257),
    "write": (1, 18, 20),
    "fsync": (74, 75),
    "rename": (82, 264, 316),
    "mkdir": (83, 258),
    "truncate": (77, 285),
    "unlink": (87, 84, 263),
}
_AARCH64 = {
    "open": (56,),
    "write": (64, 68, 66),
    "fsync": (82, 83),
    "rename": (38, 276),
    "mkdir": (34,),
    "truncate": (46, 47),
    "unlink": (35,),
}
_CALLS = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(platform.machine(), {})
_NAMES = {number: name for name, numbers in _CALLS.items() for number in numbers}
_BY_PATH = {2, 82, 83, 84, 87} if platform.machine() == "x86_64" else set[int]()  # without the handle of a folder
_SECCOMP = {"x86_64": 317, "aarch64": 277}.get(platform.machine())
_NEEDS_SPACE = frozenset(_CALLS) - {"unlink"}

_NEW_LISTENER, _SET_FILTER, _NO_NEW_PRIVS = 1 << 3, 1, 38
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_CONTINUE = 1
_NOTICE = struct.Struct("=QII i I Q 6Q".replace(" ", ""))  # id, pid, flags; number, architecture, pointer, arguments
_AT_FDCWD = -100
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
POLL_MS = 20

AVAILABLE = _SECCOMP is not None and Path("/proc/self/mem").exists()


@dataclass(frozen=True, slots=True)
class Operation:
    """A file operation: its kind and its path."""

    kind: str
    path: Path

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


@dataclass
class Disk:
    """The disk that a process sees below `folder`.

    It refuses operation number `at` (from 0) with `error`, and with `lasting` all later ones. A full disk
    (`errno.ENOSPC`) still removes files.
    """

    folder: Path
    at: int | None = None
    error: int = errno.ENOSPC
    lasting: bool = False
    operations: list[Operation] = field(default_factory=list)
    refused: list[Operation] = field(default_factory=list)

    def answer(self, operation: Operation) -> int:
        """Return the error of an operation, or 0 for none."""
        if not operation.path.is_relative_to(self.folder):
            return 0
        if self.error == errno.ENOSPC and operation.kind not in _NEEDS_SPACE:
            return 0
        number = len(self.operations)
        self.operations.append(operation)
        if self.at is None or number < self.at or (number > self.at and not self.lasting):
            return 0
        self.refused.append(operation)
        return self.error


def run_on(disk: Disk, play: Callable[[], int], *, limit_s: float = 120.0) -> int:
    """Call `play` in a forked process whose disk is `disk`; returns its exit code, or minus a signal.

    Raises `TimeoutError`, and kills the process, where it takes longer than `limit_s` seconds.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = os.fork()
        if child == 0:
            _play_filtered(theirs, play)
        theirs.close()
        _, handles, _, _ = socket.recv_fds(ours, 1, 1)
    if not handles:
        os.waitpid(child, 0)
        raise OSError("this system does not let a process filter its own system calls")
    try:
        return _answer_until_ended(disk, child, handles[0], time.monotonic() + limit_s)
    finally:
        os.close(handles[0])


def _play_filtered(theirs: socket.socket, play: Callable[[], int]) -> None:
    code = 1
    try:
        socket.send_fds(theirs, [b"1"], [_install_filter()])
        code = play()
    finally:
        os._exit(code)


def _answer_until_ended(disk: Disk, child: int, listener: int, until: float) -> int:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        for _ in poll.poll(POLL_MS):
            _answer(disk, listener)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"still running; the last operations: {', '.join(map(str, disk.operations[-3:]))}")


def _answer(disk: Disk, listener: int) -> None:
    """Answer one question of the kernel; the process that it is about may be gone meanwhile."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        notice = bytearray(_NOTICE.size)
        fcntl.ioctl(listener, _RECEIVE, notice)
        id, pid, _, number, _, _, *arguments = _NOTICE.unpack(notice)
        operation = _operation(pid, number, arguments)
        refusal = disk.answer(operation) if operation is not None else 0
        answer = struct.pack("=QqiI", id, 0, -refusal, 0 if refusal else _CONTINUE)
        fcntl.ioctl(listener, _SEND, answer)


def _operation(pid: int, number: int, arguments: list[int]) -> Operation | None:
    """Return the operation of a call, None for one that changes no file."""
    kind = _NAMES[number]
    try:
        if kind in ("write", "fsync", "truncate"):
            return Operation(kind, Path(os.readlink(f"/proc/{pid}/fd/{_signed(arguments[0])}")))  # noqa: PTH115
        first = 0 if number in _BY_PATH else 1
        if kind == "open" and not arguments[first + 1] & _WRITES:
            return None
        folder = _signed(arguments[0]) if first else _AT_FDCWD
        at = f"/proc/{pid}/cwd" if folder == _AT_FDCWD else f"/proc/{pid}/fd/{folder}"
        return Operation(kind, Path(os.path.normpath(Path(os.readlink(at)) / _text(pid, arguments[first]))))  # noqa: PTH115
    except OSError:  # a bad handle or address: the kernel says so itself
        return None


def _text(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        data = os.pread(memory.fileno(), os.sysconf("SC_PAGE_SIZE") - address % os.sysconf("SC_PAGE_SIZE"), address)
        if b"\0" not in data:
            data += os.pread(memory.fileno(), 4096, address + len(data))
    return os.fsdecode(data.partition(b"\0")[0])


def _signed(value: int) -> int:
    return ctypes.c_int32(value & 0xFFFFFFFF).value


def _install_filter() -> int:
    """Install the filter for this process and its children, for good, and return the handle of its questions."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    code = b"".join(_instructions())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    handle = libc.syscall(ctypes.c_long(_SECCOMP or 0), _SET_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if handle < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(handle)


def _instructions() -> Iterator[bytes]:
    """Yield a BPF program: ask about the calls of `_NAMES` that write, allow all others."""
    statement = struct.Struct("=HBBI")
    load, jump_if_equal, jump_if_any, answer = 0x20, 0x15, 0x45, 0x06
    yield statement.pack(load, 0, 0, 0)  # the number of the call
    for number in _NAMES:
        if number in _CALLS["open"]:  # most calls open a file for reading
            yield statement.pack(jump_if_equal, 0, 4, number)
            yield statement.pack(load, 0, 0, 16 + 8 * (1 if number in _BY_PATH else 2))  # its flags
            yield statement.pack(jump_if_any, 0, 1, _WRITES)
            yield statement.pack(answer, 0, 0, _ASK)
            yield statement.pack(answer, 0, 0, _ALLOW)
        else:
            yield statement.pack(jump_if_equal, 0, 1, number)
            yield statement.pack(answer, 0, 0, _ASK)
    yield statement.pack(answer, 0, 0, _ALLOW)
