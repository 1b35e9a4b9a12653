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
    began = time.monotonic()
    with sandboxed(bwrap, source, limits) as command:
        try:
            process = _start(command)
        except (OSError, subprocess.SubprocessError) as error:
            os.close(command.status)
            raise BubblewrapFailed(f"{bwrap}: {error}") from error
    with _Run(process, command.status, stdin, limits, began) as run:
        cut = run.finish()
        run.reap()
        code = run.exit_code()
        if code is None and cut is None:
            raise BubblewrapFailed(" ".join(run.text("stderr").split()) or f"exit code {process.returncode}")
        seconds = time.monotonic() - began
        reason = cut or _reason(code or 0, run.text("stderr"), seconds, limits)
        own = code if cut is None and not _is_signal(code or 0) else None
        return SandboxResult(reason, own, run.text("stdout"), run.text("stderr"), seconds)


def _start(command: Command) -> subprocess.Popen[bytes]:
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command.arguments,
        executable=command.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        pass_fds=command.descriptors,
        env=command.environment,
        cwd="/",
        start_new_session=True,  # Ctrl-C only reaches the parent
        **identity(),  # type: ignore[call-overload]
    )
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


class _Run:
    """A running sandbox: its pipes, of which no more than the limit is kept, and its deadline."""

    def __init__(
        self, process: subprocess.Popen[bytes], status: int, stdin: bytes, limits: SandboxLimits, began: float
    ) -> None:
        assert process.stdin and process.stdout and process.stderr
        self._process, self._stdin = process, memoryview(stdin)
        self._deadline = began + limits.wall_s
        self._status = os.fdopen(status, "rb", buffering=0)
        output = limits.output_kb * 2**10
        self._most = {"stdout": output, "stderr": output, "status": _MOST_STATUS}
        self._read = {name: bytearray() for name in self._most}
        self._selector = selectors.DefaultSelector()
        pipes: dict[str, IO[bytes]] = {"stdout": process.stdout, "stderr": process.stderr, "status": self._status}
        for name, pipe in pipes.items():
            self._selector.register(pipe, selectors.EVENT_READ, name)
        self._open = set(pipes)
        os.set_blocking(process.stdin.fileno(), False)
        self._selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left, and close all pipes."""
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._process.kill()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr, self._status):
            with contextlib.suppress(OSError):
                pipe.close()

    def finish(self) -> Cut | None:
        """Feed and read the program until it has ended; return the limit at which it was ended here, if any."""
        cut: Cut | None = None
        deadline = self._deadline
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
            if cut is not None and deadline == self._deadline:
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
