"""One run of a program in the sandbox: feed it, read it within bounds, end it at its limits, and say how it ended."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Literal

from genrl_graph.errors import DataError
from genrl_graph.nodes.sandbox.command import Command, identity, sandboxed
from genrl_graph.nodes.sandbox.limits import Reason, SandboxLimits, SandboxResult

CHUNK = 2**16
END_S = 5.0
"""Seconds in which a killed sandbox must be gone; one in an uninterruptible system call is left to the system."""
_SIGNALLED = 128
_MOST_STATUS = 4096

Cut = Literal["wall", "output"]


class BubblewrapFailed(DataError):
    """bubblewrap did not start the program; the message is its own."""


def run_once(bwrap: Path, source: str, stdin: bytes, limits: SandboxLimits) -> SandboxResult:
    """Run a program; raises `BubblewrapFailed` if bubblewrap cannot start it."""
    with Running(bwrap, source, limits, stdin=stdin) as run:
        return run.result()


def _start(command: Command, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command.arguments,
            executable=command.executable,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=command.descriptors,
            env=command.environment,
            cwd="/",
            start_new_session=True,  # Ctrl-C only reaches the parent
            **identity(),  # type: ignore[call-overload]
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.close(command.status)
        raise BubblewrapFailed(f"{command.arguments[0]}: {error}") from error
    return process


def _reason(code: int, stderr: str, seconds: float, limits: SandboxLimits) -> Reason:
    """Return why a program ended that was not ended here, from its exit code as bubblewrap reports it."""
    if code == 0:
        return "ended"
    if code == _SIGNALLED + signal.SIGXCPU:
        return "cpu"
    if code == _SIGNALLED + signal.SIGKILL:  # one that ignores the signal before, or the system is out of memory
        return "cpu" if seconds > limits.cpu_s else "memory"
    if stderr.rstrip().rpartition("\n")[2].startswith("MemoryError"):
        return "memory"
    return "killed" if _is_signal(code) else "failed"


def _is_signal(code: int) -> bool:
    """Return whether an exit code is that of a program which a signal has ended."""
    return _SIGNALLED < code <= _SIGNALLED + signal.NSIG


class Running:
    """A running sandbox: its pipes, of which no more than the limit is kept, and its deadline.

    Standard input is `stdin`, bytes to feed or a descriptor of the caller, and standard output is read, or is the
    caller's descriptor `stdout`. Leaving the block kills what is left.
    """

    def __init__(
        self,
        bwrap: Path,
        source: str,
        limits: SandboxLimits,
        *,
        stdin: bytes | int = b"",
        stdout: int = subprocess.PIPE,
    ) -> None:
        self._began, self._limits = time.monotonic(), limits
        with sandboxed(bwrap, source, limits) as command:
            feed = stdin if isinstance(stdin, int) else subprocess.PIPE
            self._process = process = _start(command, feed, stdout)
        self._stdin = memoryview(b"" if isinstance(stdin, int) else stdin)
        self._status = os.fdopen(command.status, "rb", buffering=0)
        output = limits.output_kb * 2**10
        self._most = {"stdout": output, "stderr": output, "status": _MOST_STATUS}
        self._read = {name: bytearray() for name in self._most}
        self._selector = selectors.DefaultSelector()
        pipes = {"stdout": process.stdout, "stderr": process.stderr, "status": self._status}
        self._pipes: dict[str, IO[bytes]] = {name: pipe for name, pipe in pipes.items() if pipe is not None}
        for name, pipe in self._pipes.items():
            self._selector.register(pipe, selectors.EVENT_READ, name)
        self._open = set(self._pipes)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left, and close all pipes."""
        self._process.kill()
        self._selector.close()
        for pipe in (self._process.stdin, *self._pipes.values()):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.reap()

    def result(self) -> SandboxResult:
        """Wait for the end and say how it came; raises `BubblewrapFailed` if the program was never started."""
        cut = self.finish()
        self.reap()
        code = self.exit_code()
        if code is None and cut is None:
            raise BubblewrapFailed(" ".join(self.text("stderr").split()) or f"exit code {self._process.returncode}")
        seconds = time.monotonic() - self._began
        reason = cut or _reason(code or 0, self.text("stderr"), seconds, self._limits)
        own = code if cut is None and not _is_signal(code or 0) else None
        return SandboxResult(reason, own, self.text("stdout"), self.text("stderr"), seconds)

    def finish(self) -> Cut | None:
        """Feed and read the program until it has ended; return the limit at which it was ended here, if any."""
        cut: Cut | None = None
        deadline = ends = self._began + self._limits.wall_s
        while self._open:
            left = deadline - time.monotonic()
            if left <= 0:
                if cut is not None:
                    return cut  # killed, and not gone
                cut = "wall"
            else:
                for key, _ in self._selector.select(left):
                    if self._move(key.data, key.fd) and cut is None:
                        cut = "output"
            if cut is not None and deadline == ends:
                self._process.kill()  # all processes in the sandbox die with it
                deadline = time.monotonic() + END_S
        return cut

    def _move(self, name: str, descriptor: int) -> bool:
        """Read or write what one pipe is ready for; return whether the program has written too much."""
        if name == "stdin":
            self._feed(descriptor)
            return False
        chunk = os.read(descriptor, CHUNK)
        if not chunk:
            self._selector.unregister(descriptor)
            self._open.discard(name)
        room = self._most[name] - len(self._read[name])
        self._read[name] += chunk[:room]
        return len(chunk) > room

    def _feed(self, descriptor: int) -> None:
        try:
            self._stdin = self._stdin[os.write(descriptor, self._stdin[:CHUNK]) :] if self._stdin else self._stdin
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._stdin = self._stdin[:0]
        if not self._stdin:
            assert self._process.stdin
            self._selector.unregister(descriptor)
            self._process.stdin.close()

    def reap(self) -> None:
        """Wait for bubblewrap, which has closed its pipes or was killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)

    def exit_code(self) -> int | None:
        """Return the exit code of the program as bubblewrap reports it in its own pipe, None without a report."""
        code = None
        for line in self.text("status").splitlines():
            with contextlib.suppress(ValueError):  # cut where bubblewrap was killed
                code = json.loads(line).get("exit-code", code)
        return code if isinstance(code, int) else None

    def text(self, name: str) -> str:
        """Return what was read from a pipe."""
        return self._read[name].decode("utf-8", errors="replace")
