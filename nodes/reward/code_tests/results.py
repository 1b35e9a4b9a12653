"""Test many programs side by side; a program that was tested before is not run again."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from genrl_graph.nodes.reward.code_tests.run_tests import run_tests
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.sandbox.process import BubblewrapFailed
from genrl_graph.nodes.source.data.code_task import CodeTask
from genrl_graph.nodes.worker.worker import Failure, OutOfTime
from genrl_graph.seeds import digest

MOST_KEPT = 2**14
"""Programs whose results are kept; the least recently used one goes first."""

Rules = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """A program, the tests of its task, and the limits of all of them and of each."""

    program: str
    task: CodeTask
    limits: SandboxLimits
    test_s: float

    def key(self) -> str:
        """Return a digest of the program, the tests and the limits."""
        return digest((repr(self.program), self.task.key(), repr(self.limits), repr(self.test_s)))

    def run(self) -> Rules:
        """Return by which rule each test ends."""
        return run_tests(self.program, self.task, self.limits, self.test_s)


class Results:
    """The results of programs by digest. One that ended at the clock is not kept: it depends on how busy it was."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._rules: OrderedDict[str, Rules] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Rules | None:
        """Return the result of a digest, None if it is not known."""
        with self._lock:
            rules = self._rules.get(key)
            if rules is not None:
                self._rules.move_to_end(key)
            return rules

    def add(self, key: str, rules: Rules) -> None:
        """Keep a result."""
        if "wall" in rules:
            return
        with self._lock:
            self._rules[key] = rules
            while len(self._rules) > self._most:
                self._rules.popitem(last=False)

    def clear(self) -> None:
        """Forget all results."""
        with self._lock:
            self._rules.clear()


RESULTS = Results()
"""Results of this process, which all rewards and rounds share."""


def run_trials(trials: Mapping[int, Trial], *, workers: int | None, until: float) -> dict[int, Rules | Failure]:
    """Return the results of trials by their number; equal ones run once.

    As many run at a time as there are `workers` (None: cores). Those that have not begun at the monotonic time `until`
    get `OutOfTime`.
    """
    by_key = {number: trial.key() for number, trial in trials.items()}
    results: dict[str, Rules | Failure] = {}
    todo: dict[str, Trial] = {}
    for number, key in by_key.items():
        kept = RESULTS.get(key)
        if kept is not None:
            results[key] = kept
        else:
            todo[key] = trials[number]
    if todo:
        with ThreadPoolExecutor(min(workers or _cores(), len(todo))) as threads:
            ended: Iterable[Rules | Failure] = threads.map(lambda trial: _run(trial, until), todo.values())
            results |= zip(todo, ended, strict=True)
    for key in todo:
        if isinstance(rules := results[key], tuple):
            RESULTS.add(key, rules)
    return {number: results[key] for number, key in by_key.items()}


def _run(trial: Trial, until: float) -> Rules | Failure:
    if time.monotonic() >= until:
        return OutOfTime()
    try:
        return trial.run()
    except BubblewrapFailed as error:  # this one did not start, such as for lack of memory
        return Failure(str(error))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
