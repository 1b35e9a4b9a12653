"""The work of a sweep: which cells to play next, and up to which round."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

from genrl_graph.runners.sweep.cell_process import Task
from genrl_graph.store.sweep_folder import CellEnd


class Work(Protocol):
    """Hands out tasks, and learns how they ended."""

    def next(self) -> Task | None:
        """Return a task to start now; None where there is none until others have ended, or at all."""

    def ended(self, task: Task, end: CellEnd) -> None:
        """Take note of how a task ended."""

    @property
    def left(self) -> int:
        """The number of tasks that are known to be left, those that run not counted."""


class Queue:
    """A fixed list of tasks, without those that a previous session finished."""

    def __init__(self, tasks: Iterable[Task], ends: Mapping[str, CellEnd]) -> None:
        self._tasks = deque(task for task in tasks if not is_done(task, ends))

    def next(self) -> Task | None:
        """Return the next task."""
        return self._tasks.popleft() if self._tasks else None

    def ended(self, task: Task, end: CellEnd) -> None:
        """Do nothing: whatever happened, the others are played."""

    @property
    def left(self) -> int:
        """The number of tasks that are left."""
        return len(self._tasks)


def is_done(task: Task, ends: Mapping[str, CellEnd]) -> bool:
    """Return whether a previous session played this task to its end."""
    end = ends.get(task.cell.name)
    return end is not None and end.exit_code == 0 and (end.stopped or end.rounds >= task.rounds)
