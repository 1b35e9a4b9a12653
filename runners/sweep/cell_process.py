"""The process of a cell: an ordinary `genrl-graph run` with a log of its own, which ends when the sweep does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genrl_graph.store.run_path import RunPath, refused_by_name
from genrl_graph.store.sweep_folder import LOGS, Cell, CellEnd

TIED = Path(__file__).with_name("tied.py")
PREFIX = "genrl-graph: "
TAIL_BYTES = 65_536
LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Task:
    """A cell to play up to a number of rounds."""

    cell: Cell
    rounds: int


@dataclass(frozen=True, slots=True)
class Launch:
    """The start of the cells of a sweep: graph, options of every run, and threads, None where the user set them."""

    folder: Path
    graph: str
    options: Sequence[str] = ()
    threads: int | None = None

    def command(self, task: Task) -> list[str]:
        """Return the arguments of `genrl-graph` that play a cell, or go on with it."""
        rounds = f"run.rounds={task.rounds}"
        out = str(self.folder / task.cell.name)
        return ["run", self.graph, *self.options, "-o", out, "--resume", *task.cell.overrides, rounds]

    def environment(self) -> Mapping[str, str]:
        """Return the environment of a cell, with its threads."""
        threads = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        return dict(os.environ) | threads

    def log(self, cell: Cell) -> RunPath:
        """Return the file that the output of a cell is appended to."""
        return RunPath(self.folder) / LOGS / f"{cell.name}.log"


@dataclass(slots=True)
class CellProcess:
    """A running cell."""

    task: Task
    log: RunPath
    process: "subprocess.Popen[bytes]"
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, launch: Launch, task: Task) -> "CellProcess":
        """Start a cell in a session of its own, so that a signal of the terminal reaches only the sweep.

        Raises `StoreError` where a link, or anything else that leads out of the sweep, stands in place of its files.
        """
        log = launch.log(task.cell)
        (RunPath(launch.folder) / task.cell.name).is_folder()
        with refused_by_name(log, "write"):
            log.parent.make_folder()
            handle = log.open(os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with os.fdopen(handle, "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-S", str(TIED), str(os.getpid()), *launch.command(task)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=launch.environment(),
                start_new_session=True,
            )
        return cls(task, log, process)

    def end(self) -> CellEnd | None:
        """Return how the process ended, None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        exit_code = code if code >= 0 else 128 - code
        reason = _reason(self.log, code) if code else ""
        seconds = round(time.monotonic() - self.started, 3)
        return CellEnd(
            cell=self.task.cell.name, rounds=self.task.rounds, exit_code=exit_code, seconds=seconds, reason=reason
        )

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Send a signal, if the process still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signum)


def _reason(log: RunPath, code: int) -> str:
    """Return why a process failed: the first line of its last error, else its last line, else the signal."""
    with os.fdopen(log.open(os.O_RDONLY), "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + ("; was there enough memory?" if -code == signal.SIGKILL else "")
    first = len(lines)
    while first and lines[first - 1].startswith(PREFIX):
        first -= 1
    said = lines[first:] or lines[-1:] or ["it said nothing"]
    return said[0].removeprefix(PREFIX)[:LONGEST_REASON]
