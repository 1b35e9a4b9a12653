"""What ran when: a Chrome trace of a run's steps (chrome://tracing, Perfetto), and of one round's torch operators."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

ProfileOf = Literal["steps", "ops"]

OPERATORS_S = 60.0
"""Operators are no longer recorded after the step in which so many seconds have passed: each of them takes memory."""


class Trace:
    """Is told what begins and ends; this one keeps nothing."""

    @contextmanager
    def span(self, name: str, kind: str, peer: str, args: Mapping[str, object]) -> Iterator[dict[str, object]]:
        """What a peer does in the block; facts that are known only at its end are put into what this gives."""
        yield dict(args)

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        """The block plays a round."""
        yield

    def close(self) -> None:
        """The run ends."""


SILENT = Trace()


class Profile(Trace):
    """Writes spans as events of a Chrome trace: a process a peer, a thread for what runs ahead.

    The file is `profile.json`; a run that goes on leaves it as it is and begins `profile-2.json`. Times are those of
    the wall clock, so that files of peers and of parts of a run can be merged. A file that was cut is a trace all the
    same: readers of the format take an array without its end. With `operators` also those of one round, the second
    that is played or the only one of `rounds`, are written: `profile-ops.json`.
    """

    def __init__(self, folder: Path, *, operators: bool = False, rounds: int = 1) -> None:
        self._file: IO[str] = free(folder, "profile").open("w", encoding="utf-8")
        self._file.write("[")
        self._peers: dict[str, int] = {}
        self._lock = threading.Lock()
        self._start = time.time() * 1e6 - time.perf_counter() * 1e6
        self._first = True
        self._operators = Operators(free(folder, "profile-ops")) if operators else None
        self._wait = min(1, rounds - 1)  # the first round also makes the optimiser's state

    @contextmanager
    def span(self, name: str, kind: str, peer: str, args: Mapping[str, object]) -> Iterator[dict[str, object]]:
        """Write the event when the block ends, also where it fails: then with the `error`."""
        found, started = dict(args), time.perf_counter()
        try:
            yield found
        except BaseException as error:
            found["error"] = type(error).__name__
            raise
        finally:
            seconds = time.perf_counter() - started
            place = {"pid": self._peer(peer), "tid": int(threading.current_thread() is not threading.main_thread())}
            times = {"ts": self._start + started * 1e6, "dur": seconds * 1e6}
            self._write({"name": name, "cat": kind, "ph": "X", **times, **place, "args": found})
            if self._operators is not None and kind == "step":
                self._operators.check()

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        """What was written of a round stays, whatever happens in the next; one round is watched more closely."""
        watched = self._operators if self._wait == 0 else None
        self._wait -= 1
        if watched is not None:
            watched.start()
        try:
            yield
        finally:
            if watched is not None:
                watched.stop()
            self._file.flush()

    def close(self) -> None:
        """End the array."""
        self._file.write("\n]\n")
        self._file.close()

    def _peer(self, name: str) -> int:
        with self._lock:
            if name in self._peers:
                return self._peers[name]
            number = self._peers[name] = len(self._peers)
        self._write({"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": name}})
        for tid, thread in enumerate(("steps", "ahead")):
            self._write({"name": "thread_name", "ph": "M", "pid": number, "tid": tid, "args": {"name": thread}})
        return number

    def _write(self, event: Mapping[str, object]) -> None:
        line = json.dumps(event)
        with self._lock:
            self._file.write(("\n" if self._first else ",\n") + line)
            self._first = False


class Operators:
    """The torch operators of one round."""

    def __init__(self, file: Path) -> None:
        self._file, self._began = file, 0.0
        self._profiler: Any = None

    def start(self) -> None:
        """Record from now on."""
        import torch

        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler, self._began = torch.profiler.profile(activities=activities), time.perf_counter()
        self._profiler.start()

    def check(self) -> None:
        """Stop where enough time has passed."""
        if time.perf_counter() - self._began > OPERATORS_S:
            self.stop()

    def stop(self) -> None:
        """Write what was recorded, once."""
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.stop()
            profiler.export_chrome_trace(str(self._file))


def free(folder: Path, name: str) -> Path:
    """`<name>.json`, or with the first number from 2 on that is not taken."""
    file, number = folder / f"{name}.json", 2
    while file.exists():
        file, number = folder / f"{name}-{number}.json", number + 1
    return file
