"""Play the cells of a sweep, as many side by side as there is room for, until all ended or a signal came."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from genrl_graph.records.stored_run import writer_of
from genrl_graph.runners.loop import signals
from genrl_graph.runners.loop.signals import Interrupted, Stop, noted_signals, what_is_left
from genrl_graph.runners.sweep.cell_process import CellProcess, Launch, Task
from genrl_graph.runners.sweep.work import Work
from genrl_graph.store.run_folder import GRAPH, LOCK
from genrl_graph.store.sweep_folder import CellEnd

POLL_S = 0.1
KILL_S = signals.KILL_S + 0.5
"""Seconds from a signal until cells that still run are killed; each has ended itself by then."""
NOTICE = "stopping all cells; once more ends at once"


def play_work(
    work: Work,
    launch: Launch,
    jobs: int,
    *,
    starts: Callable[[Task], None],
    ended: Callable[[Task, CellEnd], None],
    folder: Path,
) -> None:
    """Start cells while there is work and room for them; raises `Interrupted` after a signal, when all have ended.

    `starts` is told of a cell before it starts; `ended` records its end before `work` learns of it. The error names
    `folder`, that of the sweep.
    """
    running: list[CellProcess] = []
    stop = Stop(notice=NOTICE)
    with noted_signals(stop):
        try:
            while not stop.wanted:
                _fill(running, work, launch, jobs, stop, starts)
                if not running:
                    return
                time.sleep(POLL_S)
                for process, end in _ended(running):
                    ended(process.task, end)
                    work.ended(process.task, end)
        finally:
            _stop_all(running)
        assert stop.signum is not None
        raise Interrupted(stop.signum, what_is_left(folder))


def wait_for_orphans(folders: Iterable[Path]) -> None:
    """Wait until cells of a sweep that was killed have ended, as they do within seconds on Linux."""
    deadline = time.monotonic() + KILL_S + 2.0
    for folder in folders:
        if (folder / GRAPH).exists() and (folder / LOCK).exists():
            while writer_of(folder) is not None and time.monotonic() < deadline:
                time.sleep(POLL_S)


def _fill(
    running: list[CellProcess], work: Work, launch: Launch, jobs: int, stop: Stop, starts: Callable[[Task], None]
) -> None:
    while len(running) < jobs and not stop.wanted and (task := work.next()) is not None:
        starts(task)
        running.append(CellProcess.start(launch, task))


def _ended(running: list[CellProcess]) -> list[tuple[CellProcess, CellEnd]]:
    """Remove the processes that have ended, and return them with how they did."""
    done = [(process, end) for process in running if (end := process.end()) is not None]
    running[:] = [process for process in running if all(process is not other for other, _ in done)]
    return done


def _stop_all(running: list[CellProcess]) -> None:
    """Let every running cell end after its step, and kill those that do not."""
    for process in running:
        process.stop()
    deadline = time.monotonic() + KILL_S
    while any(process.end() is None for process in running) and time.monotonic() < deadline:
        time.sleep(POLL_S / 2)
    for process in running:
        if process.end() is None:
            process.process.kill()
            process.process.wait()
