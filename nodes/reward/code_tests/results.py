"""Test many programs side by side; a program that was tested before is not run again."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from genrl_graph.nodes.reward.code_tests.run_tests import Ends, Rules, compare, run_program
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.sandbox.process import BubblewrapFailed
from genrl_graph.nodes.source.data.code_task import CodeTask
from genrl_graph.nodes.worker.worker import Failure, OutOfTime
from genrl_graph.seeds import digest

MOST_KEPT = 2**14
"""Programs whose results are kept; the least recently used one goes first."""
MOST_OUTPUT = 2**12
"""Most characters of a result that is kept."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A program, the tests of its task, and the limits of all of them and of each."""

    program: str
    task: CodeTask
    limits: SandboxLimits
    test_s: float

    def key(self) -> str:
        """Return a digest of the program, the limits and what the program meets: inputs, or tests that are code."""
        inputs = repr([test.input for test in self.task.tests])
        tests = inputs if self.task.reads_input else self.task.key()
        return digest((repr(self.program), tests, repr(self.limits), repr(self.test_s)))

    def run(self) -> Ends:
        """Return how each test ends, before outputs are compared."""
        return run_program(self.program, self.task, self.limits, self.test_s)


class Results:
    """The results of programs by digest. One that ended at the clock is not kept: it depends on how busy it was."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._ends: OrderedDict[str, Ends] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Ends | None:
        """Return the result of a digest, None if it is not known."""
        with self._lock:
            ends = self._ends.get(key)
            if ends is not None:
                self._ends.move_to_end(key)
            return ends

    def add(self, key: str, ends: Ends) -> None:
        """Keep a result, unless it is large."""
        if any(rule == "wall" for rule, _ in ends) or sum(len(output) for _, output in ends) > MOST_OUTPUT:
            return
        with self._lock:
            self._ends[key] = ends
            while len(self._ends) > self._most:
                self._ends.popitem(last=False)

    def clear(self) -> None:
        """Forget all results."""
        with self._lock:
            self._ends.clear()


RESULTS = Results()
"""Results of this process, which all rewards and rounds share."""


def run_trials(trials: Mapping[int, Trial], *, workers: int | None, until: float) -> dict[int, Rules | Failure]:
    """Return by which rule each test of a trial ends, by the number of the trial.

    As many run at a time as there are `workers` (None: cores), and equal ones once. Those that have not begun at the
    monotonic time `until` get `OutOfTime`.
    """
    ended = run_programs(trials, workers=workers, until=until)
    return {at: ends if isinstance(ends, Failure) else compare(trials[at].task, ends) for at, ends in ended.items()}


def run_programs(trials: Mapping[int, Trial], *, workers: int | None, until: float) -> dict[int, Ends | Failure]:
    """Return the same before outputs are compared."""
    by_key = {number: trial.key() for number, trial in trials.items()}
    ended: dict[str, Ends | Failure] = {}
    todo: dict[str, Trial] = {}
    for number, key in by_key.items():
        kept = RESULTS.get(key)
        if kept is not None:
            ended[key] = kept
        else:
            todo[key] = trials[number]
    if todo:
        with ThreadPoolExecutor(min(workers or cores(), len(todo))) as threads:
            ended |= zip(todo, threads.map(lambda trial: _run(trial, until), todo.values()), strict=True)
    for key in todo:
        if isinstance(ends := ended[key], tuple):
            RESULTS.add(key, ends)
    return {number: ended[key] for number, key in by_key.items()}


def _run(trial: Trial, until: float) -> Ends | Failure:
    if time.monotonic() >= until:
        return OutOfTime()
    try:
        return trial.run()
    except BubblewrapFailed as error:  # this one did not start, such as for lack of memory
        return Failure(str(error))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
