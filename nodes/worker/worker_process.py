"""The subprocess of a `Worker`: its pipes, its frames and its end."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from genrl_graph.messages import escaped
from genrl_graph.nodes.worker import supervisor, worker_main
from genrl_graph.nodes.worker.worker_main import HEADER_BYTES, MAX_MESSAGE_BYTES
from genrl_graph.nodes.worker.worker_output import EchoedOutput

CHUNK_BYTES = 2**20
STDERR_TAIL_BYTES = 4096
POLL_S = 0.1
END_GRACE_S = 1.0
KILL_S = supervisor.KILL_S + 2.0
"""Seconds from SIGTERM until a supervisor that has not ended is killed itself."""
DRAIN_READS = 16
"""Most reads from a pipe whose writers have been killed; the system holds at most one `CHUNK_BYTES` in it."""


class WorkerProcess:
    """A supervised process that runs `worker_main`; `pump` moves bytes, `reply` decodes the next complete answer."""

    def __init__(self, target: str, memory_mb: int | None, output: EchoedOutput) -> None:
        limit = [] if memory_mb is None else ["--memory-mb", str(memory_mb)]
        scripts = [supervisor.__file__, worker_main.__file__]  # -m would import all of genrl_graph
        self.process = subprocess.Popen(
            [sys.executable, "-P", *scripts, *limit, "--", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C only reaches the parent
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self._stdin = self.process.stdin.fileno()
        self._stdout = self.process.stdout.fileno()
        self._stderr = self.process.stderr.fileno()
        self.outbox: deque[memoryview] = deque()
        self.hung_up = False
        self._inbox = bytearray()
        self._tail = b""
        self._output = output
        self._selector = selectors.DefaultSelector()
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe, False)
        for pipe in (self._stdout, self._stderr):
            self._selector.register(pipe, selectors.EVENT_READ)
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _end, self.process, self._owner, 0.0)

    def usable(self) -> bool:
        """Return True if calls can be sent: the process runs, and this is not a fork of the process that started it."""
        return os.getpid() == self._owner and not self.hung_up and self.process.poll() is None

    def pump(self, wait_s: float) -> bool:
        """Move available bytes, waiting at most `wait_s` seconds; return True if something was written."""
        wrote = False
        if self.outbox and self._stdin not in self._selector.get_map():
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        for key, _ in self._selector.select(min(max(wait_s, 0.0), POLL_S)):
            if key.fd == self._stdin:
                wrote = self._write()
            elif key.fd == self._stderr:
                self._read_stderr()
            else:
                self._read_stdout()
        if not self.hung_up and self.process.poll() is not None:
            self._drain(self._read_stdout)
            self.hung_up = True
        if not self.outbox and self._stdin in self._selector.get_map():
            self._selector.unregister(self._stdin)
        return wrote

    def reply(self) -> dict[str, Any] | None:
        """Decode the next answer; None while it is incomplete; an invalid one counts as a hang-up."""
        size = int.from_bytes(self._inbox[:HEADER_BYTES], "big")
        end = HEADER_BYTES + size
        if size > MAX_MESSAGE_BYTES:
            self.hung_up = True
            return None
        if not size or len(self._inbox) < end:
            return None
        try:
            message: dict[str, Any] = json.loads(self._inbox[HEADER_BYTES:end])
        except (ValueError, RecursionError):
            self.hung_up = True
            return None
        del self._inbox[:end]
        return message

    def death(self) -> tuple[int, tuple[str, ...]]:
        """Kill what is left of a process that hung up; return its exit code and its last lines of stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_GRACE_S)
        _kill(self.process)  # first: the output of a process that still writes would never end
        self._drain(self._read_stderr)
        self.end(grace_s=0.0)
        lines = escaped(self._tail.decode(errors="replace")).splitlines()
        return self.process.returncode, tuple(line for line in lines if line.strip())

    def interrupt(self) -> None:
        """Kill the process from a second thread; the thread that pumps then sees a hang-up."""
        if os.getpid() == self._owner:
            self.process.terminate()

    def end(self, *, grace_s: float) -> None:
        """Hang up, wait `grace_s` seconds for an idle process to exit by itself, then kill it and its descendants."""
        if self._finalizer.detach() is not None:
            self._selector.close()
            _end(self.process, self._owner, grace_s)

    def _write(self) -> bool:
        try:
            written = os.write(self._stdin, self.outbox[0][:CHUNK_BYTES])
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self.outbox.clear()  # the process has died; its earlier answers are still read
            return False
        self.outbox[0] = self.outbox[0][written:]
        if not self.outbox[0]:
            self.outbox.popleft()
        return True

    def _read_stdout(self) -> bool:
        chunk = self._read(self._stdout)
        self._inbox += chunk or b""
        if chunk == b"" or len(self._inbox) > HEADER_BYTES + MAX_MESSAGE_BYTES + CHUNK_BYTES:
            self.hung_up = True
        return bool(chunk)

    def _read_stderr(self) -> bool:
        chunk = self._read(self._stderr)
        self._tail = (self._tail + (chunk or b""))[-STDERR_TAIL_BYTES:]
        self._output.write(chunk or b"")
        if chunk == b"" and self._stderr in self._selector.get_map():
            self._selector.unregister(self._stderr)
        return bool(chunk)

    @staticmethod
    def _drain(read: Callable[[], bool]) -> None:
        """Read what an ended process has left in a pipe."""
        for _ in range(DRAIN_READS):
            if not read():
                return

    @staticmethod
    def _read(pipe: int) -> bytes | None:
        """Read available bytes: empty at the end of the pipe, None if there are none yet."""
        try:
            return os.read(pipe, CHUNK_BYTES)
        except BlockingIOError:
            return None


def _end(process: subprocess.Popen[bytes], owner: int, grace_s: float) -> None:
    """Close the pipes and kill the process; a fork of the owner only closes its copies of the pipes."""
    assert process.stdin and process.stdout and process.stderr
    process.stdin.close()
    if os.getpid() == owner:
        if grace_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
        _kill(process)
    process.stdout.close()
    process.stderr.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Have the supervisor kill all that it supervises, and wait until it has ended."""
    process.terminate()
    try:
        process.wait(KILL_S)
    except subprocess.TimeoutExpired:  # it was stopped, or cannot be scheduled: the script dies with it
        process.kill()
        process.wait()
