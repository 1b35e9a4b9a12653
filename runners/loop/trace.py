"""Chrome traces (chrome://tracing, Perfetto) of a run's steps, and of the torch operators of one round."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

ProfileOf = Literal["steps", "ops"]

OPERATORS_S = 60.0
"""Recording of operators stops after the step in which this time is exceeded: each operator takes memory."""


class Trace:
    """A trace that records nothing; base of those that do."""

    @contextmanager
    def span(self, name: str, kind: str, peer: str, args: Mapping[str, object]) -> Iterator[dict[str, object]]:
        """Trace the block as work of a peer; it may add facts, such as sizes, to the dict that this yields."""
        yield dict(args)

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        """Trace the block as a round."""
        yield

    def close(self) -> None:
        """End the trace."""


SILENT = Trace()


class Profile(Trace):
    """Writes spans as events of a Chrome trace: one process per peer, with a second thread for background steps.

    The file is `profile.json`; a resumed run begins `profile-2.json`. Times are of the wall clock, so the files of
    peers and of parts of a run can be merged. The file of an interrupted run is a valid trace: readers of the format
    accept an array without its end. With `operators` the torch operators of one round, the second or the only one of
    `rounds`, go to `profile-ops.json`. Where the disk refuses, `tell` gets a line, and the run goes on without a trace.
    """

    def __init__(
        self,
        folder: Path,
        *,
        operators: bool = False,
        rounds: int = 1,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._tell, self._path = tell, free(folder, "profile")
        self._peers: dict[str, int] = {}
        self._lock = threading.Lock()
        self._start = time.time() * 1e6 - time.perf_counter() * 1e6
        self._first = True
        self._operators = Operators(free(folder, "profile-ops")) if operators else None
        self._wait = min(1, rounds - 1)  # not the first round, which also creates the optimiser's state
        self._file: IO[str] | None = None
        with self._dropped_where_refused():
            self._file = self._path.open("w", encoding="utf-8")
            self._file.write("[")

    @contextmanager
    def span(self, name: str, kind: str, peer: str, args: Mapping[str, object]) -> Iterator[dict[str, object]]:
        """Write the event when the block ends; where it fails, with the type of the `error`."""
        facts, started = dict(args), time.perf_counter()
        try:
            yield facts
        except BaseException as error:
            facts["error"] = type(error).__name__
            raise
        finally:
            seconds = time.perf_counter() - started
            place = {"pid": self._peer(peer), "tid": int(threading.current_thread() is not threading.main_thread())}
            times = {"ts": self._start + started * 1e6, "dur": seconds * 1e6}
            self._write({"name": name, "cat": kind, "ph": "X", **times, **place, "args": facts})
            if self._operators is not None and kind == "step":
                self._operators.check()

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        """Flush the events of a round when it ends; record the operators of the chosen round."""
        recording = self._operators if self._wait == 0 else None
        self._wait -= 1
        if recording is not None:
            recording.start()
        try:
            yield
        finally:
            with self._dropped_where_refused():
                if recording is not None:
                    recording.stop()
                if self._file is not None:
                    self._file.flush()

    def close(self) -> None:
        """Write the end of the array and close the file."""
        with self._dropped_where_refused():
            if self._file is not None:
                self._file.write("\n]\n")
                self._file.close()

    def _peer(self, name: str) -> int:
        with self._lock:
            if name in self._peers:
                return self._peers[name]
            number = self._peers[name] = len(self._peers)
        self._write({"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": name}})
        for tid, thread in enumerate(("steps", "background")):
            self._write({"name": "thread_name", "ph": "M", "pid": number, "tid": tid, "args": {"name": thread}})
        return number

    def _write(self, event: Mapping[str, object]) -> None:
        line = json.dumps(event)
        with self._lock, self._dropped_where_refused():
            if self._file is not None:
                self._file.write(("\n" if self._first else ",\n") + line)
                self._first = False

    @contextmanager
    def _dropped_where_refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            file, self._file, self._operators = self._file, None, None
            if file is not None:
                with suppress(OSError):
                    file.close()
            self._tell(f"{self._path}: cannot write the trace: {error.strerror or error}; the run goes on without it")


class Operators:
    """Records the torch operators of one round with the torch profiler."""

    def __init__(self, file: Path) -> None:
        self._file, self._began = file, 0.0
        self._profiler: Any = None

    def start(self) -> None:
        """Start recording."""
        import torch

        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler, self._began = torch.profiler.profile(activities=activities), time.perf_counter()
        self._profiler.start()

    def check(self) -> None:
        """Stop after `OPERATORS_S` seconds."""
        if time.perf_counter() - self._began > OPERATORS_S:
            self.stop()

    def stop(self) -> None:
        """Stop recording and write the file; a second call does nothing."""
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.stop()
            profiler.export_chrome_trace(str(self._file))


def free(folder: Path, name: str) -> Path:
    """Return `<name>.json`, or where it exists the first free one of `<name>-2.json`, `<name>-3.json`, ..."""
    file, number = folder / f"{name}.json", 2
    while file.exists():
        file, number = folder / f"{name}-{number}.json", number + 1
    return file
