"""A worker process for rewards that may hang or crash.

A hung thread cannot be stopped and `multiprocessing` imports the user's script again. The function therefore runs in
a plain subprocess, which is killed with all that it started after a timeout and restarted when needed.
"""

import contextlib
import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from genrl_graph.errors import ParamError
from genrl_graph.messages import escaped
from genrl_graph.nodes.worker.worker_main import OUT_OF_MEMORY, encode, error_message
from genrl_graph.nodes.worker.worker_output import EchoedOutput
from genrl_graph.nodes.worker.worker_process import END_GRACE_S, WorkerProcess

MAX_IN_FLIGHT = 32


class WorkerError(Exception):
    """A call without a value: it raised, timed out, or its process died."""


class WorkerTimeout(WorkerError):
    """The function, or the start of its process, took longer than `limit_s` seconds."""

    def __init__(self, what: str, limit_s: float) -> None:
        super().__init__(f"{what} within {limit_s:g} s")
        self.limit_s = limit_s


class WorkerOutOfTime(WorkerError):
    """The time of the whole batch ended before this call did."""


class WorkerDied(WorkerError):
    """The process ended during a call; `code` is its exit code, minus the signal's number if one killed it."""

    def __init__(self, code: int, stderr: tuple[str, ...]) -> None:
        how = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        how += " (was the machine out of memory?)" if -code == signal.SIGKILL else ""
        super().__init__(f"the worker process died with {how}" + (f": {stderr[-1]}" if stderr else ""))
        self.code = code
        self.stderr = stderr


class WorkerRaised(WorkerError):
    """The function raised, or its value is not JSON; `where` is the last frame of its traceback."""

    def __init__(self, type_name: str, message: str, where: str) -> None:
        first_line = escaped(message.strip().partition("\n")[0])
        super().__init__(f"{type_name}: {first_line}" + (f" ({where})" if where else ""))
        self.type_name = type_name
        self.message = message
        self.where = where

    @classmethod
    def of(cls, error: Exception) -> "WorkerRaised":
        """Convert an exception of this process to the form that a worker reports."""
        fields = error_message(error)["error"]
        return cls(fields["type"], fields["message"], fields["where"])


@dataclass(frozen=True, slots=True)
class Failure:
    """The one-line reason why a row could not be judged."""

    reason: str


@dataclass(frozen=True, slots=True)
class OutOfTime(Failure):
    """A row that was not judged because the time for the rows of its author had ended."""

    reason: str = "the time for the rows of this peer has ended (peer_seconds)"


@dataclass(frozen=True, slots=True)
class _Value:
    value: object


class Worker:
    """A process that runs one function, with a limit of `timeout_s` seconds per call.

    `target` is `module:qualname` or `path/to/file.py:qualname`. The process starts at the first call, within
    `start_timeout_s` seconds, and ends at `close`, with this object, or with the parent process. Arguments and values
    are sent as JSON: tuples arrive as lists; NaN, infinities and None are preserved. `memory_mb` limits the address
    space. If `factory` is given, the target is a factory: the process calls it once with these arguments and runs the
    function that it returns.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float,
        memory_mb: int | None = None,
        factory: Mapping[str, object] | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        for name, value in (
            ("timeout_s", timeout_s),
            ("start_timeout_s", start_timeout_s),
            ("memory_mb", memory_mb),
        ):
            if value is not None and not value > 0:
                raise ParamError(f"worker {target!r}: {name} is {value!r}, give a number above 0")
        self.target = _checked_target(target)
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self.factory = factory
        self.start_timeout_s = start_timeout_s
        self._output = EchoedOutput(f"worker {target}")
        self._child: WorkerProcess | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, arguments: Sequence[object], keywords: Mapping[str, object]) -> object:
        """Call the function and return its value; raises WorkerTimeout, WorkerDied or WorkerRaised."""
        (outcome,) = self._outcomes([_encode_call(arguments, keywords)])
        if isinstance(outcome, WorkerError):
            raise outcome
        return outcome.value

    def map_rows(self, rows: Sequence[Mapping[str, object]], *, until: float = math.inf) -> list[object]:
        """Call the function with each row as keywords; return the values in order, `Failure` for a call without one.

        A row that hangs, crashes or raises affects no other row. At the monotonic time `until` the running call is
        killed, and the remaining rows get `OutOfTime`. Raises `WorkerError` only if the process cannot start.
        """
        outcomes = self._outcomes([_encode_call((), row) for row in rows], until=until)
        return [_failure(o) if isinstance(o, WorkerError) else o.value for o in outcomes]

    def start(self) -> None:
        """Start the process unless it is running; raises WorkerError if it cannot load its function."""
        with self._lock:
            self._running()

    def interrupt(self) -> None:
        """Kill the process during another thread's call, which then raises WorkerDied."""
        child = self._child
        if child is not None:
            child.interrupt()

    def close(self) -> None:
        """End the process; a later call starts a new one."""
        with self._lock:
            if self._child is not None:
                self._child.end(grace_s=END_GRACE_S)
                self._child = None

    def _outcomes(
        self, frames: Sequence[bytes | WorkerError], *, until: float = math.inf
    ) -> list[_Value | WorkerError]:
        outcomes: dict[int, _Value | WorkerError] = {}
        todo: deque[tuple[int, bytes]] = deque()
        for index, frame in enumerate(frames):
            if isinstance(frame, bytes):
                todo.append((index, frame))
            else:
                outcomes[index] = frame
        with self._lock:
            while todo and time.monotonic() < until:
                serve = partial(self._serve, limit_s=self.timeout_s, on_timeout="no answer", until=until)
                serve(self._running(), todo, outcomes)
        outcomes |= {index: WorkerOutOfTime("out of time") for index, _ in todo}
        return [outcomes[index] for index in range(len(frames))]

    def _running(self) -> WorkerProcess:
        if self._child is not None and not self._child.usable():
            self._kill()
        if self._child is None:
            self._child = self._start()
        return self._child

    def _start(self) -> WorkerProcess:
        child = self._child = WorkerProcess(self.target, self.memory_mb, self._output)
        outcomes: dict[int, _Value | WorkerError] = {}
        greeting = deque([(0, encode({"sys_path": [str(path) for path in sys.path], "factory": self.factory}))])
        on_timeout = f"{self.target}: the worker process did not start"
        self._serve(child, greeting, outcomes, limit_s=self.start_timeout_s, on_timeout=on_timeout)
        outcome = outcomes[0]
        if isinstance(outcome, WorkerError):
            self._kill()  # a process that cannot load its function exits by itself, but must be reaped
            raise outcome
        return child

    def _kill(self) -> None:
        if self._child is not None:
            self._child.end(grace_s=0.0)
            self._child = None

    def _serve(
        self,
        child: WorkerProcess,
        todo: deque[tuple[int, bytes]],
        outcomes: dict[int, _Value | WorkerError],
        *,
        limit_s: float,
        on_timeout: str,
        until: float = math.inf,
    ) -> None:
        """Move calls from `todo` to `outcomes`, in order, until none is left or the child has to be replaced.

        Each call may take `limit_s` seconds from the previous answer; writing the first one to the pipe does not count.
        `on_timeout` begins the text of a `WorkerTimeout`. At the time `until` the child is killed, and its calls stay
        in `todo`.
        """
        sent = 0
        deadline = time.monotonic() + limit_s
        with contextlib.ExitStack() as unfinished:
            unfinished.callback(self._kill)
            while todo:
                while sent < min(len(todo), MAX_IN_FLIGHT):
                    child.outbox.append(memoryview(todo[sent][1]))
                    sent += 1
                timed_out = time.monotonic() >= deadline  # before `pump`: an answer already in the pipe still counts
                is_writing_first = len(child.outbox) == sent
                if child.pump(min(deadline, until) - time.monotonic()) and is_writing_first:
                    deadline, timed_out = time.monotonic() + limit_s, False
                while sent and (reply := child.reply()) is not None:
                    outcomes[todo.popleft()[0]] = outcome = _outcome(reply)
                    sent -= 1
                    deadline, timed_out = time.monotonic() + limit_s, False
                    if isinstance(outcome, WorkerRaised) and outcome.type_name == OUT_OF_MEMORY:
                        return  # replace the process: every later call in it might fail too
                if todo and child.hung_up:
                    outcomes[todo.popleft()[0]] = WorkerDied(*child.death())
                    return
                if todo and time.monotonic() >= until:
                    return
                if todo and timed_out:
                    outcomes[todo.popleft()[0]] = WorkerTimeout(on_timeout, limit_s)
                    return
            unfinished.pop_all()


def _failure(error: WorkerError) -> Failure:
    return OutOfTime() if isinstance(error, WorkerOutOfTime) else Failure(str(error))


def _outcome(reply: dict[str, Any]) -> _Value | WorkerError:
    if "value" in reply:
        return _Value(reply["value"])
    error = reply["error"]
    return WorkerRaised(error["type"], error["message"], error["where"])


def _encode_call(arguments: Sequence[object], keywords: Mapping[str, object]) -> bytes | WorkerError:
    try:
        return encode({"arguments": list(arguments), "keywords": dict(keywords)})
    except (TypeError, ValueError) as error:
        return WorkerRaised(type(error).__name__, f"the arguments cannot be sent: {error}", "")


def _checked_target(target: str) -> str:
    """Return the target with an absolute path; raises ParamError if another process could not load it."""
    place, _, qualname = target.rpartition(":")
    if not place or not all(name.isidentifier() for name in qualname.split(".")):
        raise ParamError(f"worker {target!r}: not of the form module:qualname or path/to/file.py:qualname")
    if place == "__main__":
        raise ParamError(f"worker {target!r}: a script cannot be imported, move {qualname!r} to a file of its own")
    if not place.endswith(".py"):
        return target
    path = Path(place).resolve()
    if not path.is_file():
        raise ParamError(f"worker {target!r}: there is no file {place!r}")
    return f"{path}:{qualname}"
