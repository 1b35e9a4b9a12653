"""The work of a search: settings are played as long as they are among the best, or drawn one after the other."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from genrl_graph.errors import StoreError
from genrl_graph.messages import short
from genrl_graph.runners.sweep.cell_process import Task
from genrl_graph.runners.sweep.study import Study
from genrl_graph.runners.sweep.work import is_done
from genrl_graph.store.sweep_folder import Cell, CellEnd

Settings = Mapping[str, Sequence[Cell]]
"""The cells of each setting, by its label."""

Result = Callable[[Sequence[Cell], int], float]
"""Return the mean result of these cells in their first rounds, so many; NaN where one has none."""


@dataclass
class Halving:
    """Plays all settings up to one rung after the other; after each, only the best go on.

    `stop` records the cells of a setting that is stopped after so many rounds.
    """

    study: Study
    settings: Settings
    targets: tuple[int, ...]
    ends: dict[str, CellEnd]
    result: Result
    stop: Callable[[Sequence[Cell], int], None]

    def __post_init__(self) -> None:
        if unknown := self.study.settings().keys() - self.settings.keys():
            raise StoreError(
                f"{self.study.path}: {short(min(unknown))} is no setting of this sweep; restore it from a copy"
            )
        self._at, self._waiting, self._open = -1, deque[Task](), set[str]()
        self._advance()

    def next(self) -> Task | None:
        """Return the next task of this rung."""
        return self._waiting.popleft() if self._waiting else None

    def ended(self, task: Task, end: CellEnd) -> None:
        """Take note; when all of the rung have ended, decide which settings go on."""
        self.ends[task.cell.name] = end
        self._open.discard(task.cell.name)
        if not self._open:
            self._decide()
            self._advance()

    @property
    def left(self) -> int:
        """The number of tasks of this rung that are left."""
        return len(self._waiting)

    def _advance(self) -> None:
        """Go to the next rung that has something to play; those that a previous session played are decided at once."""
        while not self._open and self._at + 1 < len(self.targets):
            self._at += 1
            tasks = [Task(cell, self.targets[self._at]) for label in self._going() for cell in self.settings[label]]
            self._waiting.extend(task for task in tasks if not is_done(task, self.ends))
            self._open.update(task.cell.name for task in self._waiting)
            if not self._open:
                self._decide()

    def _decide(self) -> None:
        rounds = self.targets[self._at]
        for label in self._going():
            value = _value(self.settings[label], rounds, self.ends, self.result)
            self.study.report(label, rounds, value)
            if self._at + 1 == len(self.targets):
                self.study.end(label, value)
        if self._at + 1 < len(self.targets):
            for label in self.study.stopped(rounds):
                self.stop(self.settings[label], rounds)

    def _going(self) -> list[str]:
        trials = self.study.settings()
        return [label for label in self.settings if not trials[label].state.is_finished()]


@dataclass
class Drawing:
    """Draws a setting whenever there is room for one, until `most` are drawn, and plays each to its end."""

    study: Study
    settings: dict[str, Sequence[Cell]]
    rounds: int
    most: int
    ends: dict[str, CellEnd]
    result: Result
    draw: Callable[[], tuple[str, Sequence[Cell]]]

    def __post_init__(self) -> None:
        self._waiting, self._open = deque[Task](), dict[str, set[str]]()
        trials = self.study.settings()
        for label, cells in self.settings.items():
            if label not in trials or not trials[label].state.is_finished():
                self._begin(label, cells)

    def next(self) -> Task | None:
        """Return a task of a setting that was drawn, or draw another one."""
        while not self._waiting and len(self.settings) < self.most:
            label, cells = self.draw()
            self.settings[label] = cells
            self._begin(label, cells)
        return self._waiting.popleft() if self._waiting else None

    def ended(self, task: Task, end: CellEnd) -> None:
        """Take note; when all runs of a setting have ended, its result guides the next draws."""
        self.ends[task.cell.name] = end
        still = self._open[task.cell.setting]
        still.discard(task.cell.name)
        if not still:
            self._end(task.cell.setting)

    @property
    def left(self) -> int:
        """The number of tasks that are left of settings that were drawn."""
        return len(self._waiting)

    def _begin(self, label: str, cells: Sequence[Cell]) -> None:
        tasks = [task for cell in cells if not is_done(task := Task(cell, self.rounds), self.ends)]
        self._open[label] = {task.cell.name for task in tasks}
        self._waiting.extend(tasks)
        if not tasks:
            self._end(label)

    def _end(self, label: str) -> None:
        value = _value(self.settings[label], self.rounds, self.ends, self.result)
        self.study.report(label, self.rounds, value)
        self.study.end(label, value)


def _value(cells: Sequence[Cell], rounds: int, ends: Mapping[str, CellEnd], result: Result) -> float:
    """Return the result of a setting; NaN where one of its cells failed, since the others would flatter it."""
    known = [ends.get(cell.name) for cell in cells]
    if not all(end is not None and end.exit_code == 0 for end in known):
        return math.nan
    return result(cells, rounds)
