"""All runs of a page: read as they grow, grouped by setting, with intervals over the runs of each."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrl_graph.comparison.settings import NamedRun, named_runs, params_of, setting_params
from genrl_graph.errors import ParamError
from genrl_graph.store.peer_folders import graph_folder
from genrl_graph.view.curve import Curve
from genrl_graph.view.watched_run import RunName, WatchedRun

MOST_RUNS = 500
REFRESH_S = 0.4
"""Seconds between reads of the run folders; requests that come faster get what was read last."""
MOST_RESTING = 64
"""The most runs that nobody writes which one call of `refresh` looks at."""


@dataclass(slots=True)
class Watched:
    """The runs of a page, in the order of the arguments; `notes` tell of cells without a run."""

    runs: Sequence[WatchedRun]
    notes: Sequence[str]
    _lock: threading.Lock
    _next: float = 0.0
    _turn: int = 0

    @classmethod
    def of(cls, arguments: Sequence[Path | str]) -> "Watched":
        """Open all runs that the arguments name: runs, sweeps, folders of runs, LABEL=PATTERN.

        Raises `ParamError` where one names none, `StoreError` where a run cannot be opened.
        """
        notes: list[str] = []
        named = [run for argument in arguments for run in named_runs(str(argument), notes)]
        if len(named) > MOST_RUNS:
            raise ParamError(f"view: {len(named)} runs are named, of {MOST_RUNS} at most; name fewer, or one sweep")
        return cls([WatchedRun(name) for name in _names(named)], notes, threading.Lock())

    def refresh(self) -> bool:
        """Read what the runs have gained, at most every `REFRESH_S`; returns whether anything changed.

        Runs that nobody writes are looked at in turn.
        """
        with self._lock:
            if time.monotonic() < self._next:
                return False
            resting = [run for run in self.runs if run.rests]
            turn = resting[self._turn : self._turn + MOST_RESTING]
            self._turn = self._turn + MOST_RESTING if self._turn + MOST_RESTING < len(resting) else 0
            changed = [run.refresh() for run in (*turn, *(run for run in self.runs if not run.rests))]
            self._next = time.monotonic() + (0.0 if self.loading else REFRESH_S)
            return any(changed)

    def read_all(self) -> None:
        """Read all that the runs have; raises `StoreError` where one cannot be read."""
        for run in self.runs:
            run.read_all()

    @property
    def loading(self) -> bool:
        """Tell whether there is more to read at once."""
        return any(run.loading for run in self.runs)

    def overview(self) -> dict[str, Any]:
        """Return the names of all runs and metrics, and what `notes` tell."""
        names: set[str] = set()
        for run in self.runs:
            with run.lock:
                names.update(run.metrics.curves)
        runs = [
            {"name": run.title, "setting": run.names.setting, "seed": run.names.seed, "graph": run.stored.graph.name}
            for run in self.runs
        ]
        return {
            "runs": runs,
            "metrics": sorted(names),
            "notes": [*self.notes],
        }

    def members(self, metric: str) -> dict[str, list["Member"]]:
        """Return the runs that report a metric, by setting."""
        by_setting: dict[str, list[Member]] = {}
        for number, run in enumerate(self.runs):
            if (curve := run.metrics.curves.get(metric)) is not None:
                by_setting.setdefault(run.names.setting, []).append(Member(number, run, curve))
        return by_setting


@dataclass(frozen=True, slots=True)
class Member:
    """A run of a setting, its number on the page, and its curve of a metric."""

    number: int
    run: WatchedRun
    curve: Curve


def _names(named: Sequence[NamedRun]) -> list[RunName]:
    """Return the names of runs by setting: the label, or all that differ in nothing but the seed."""
    labels: dict[str, str] = {}
    names = []
    for run in named:
        params, _ = params_of(graph_folder(run.folder))
        seed = params.get("run.seed", 0)
        label = run.label
        if not label:
            identity = repr(sorted(setting_params(params).items(), key=lambda item: item[0]))
            label = labels.setdefault(identity, run.folder.resolve().name)
        names.append(RunName(run.folder, label, seed if isinstance(seed, int) else 0))
    return names
