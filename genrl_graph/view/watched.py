"""All runs of a page: read as they grow, grouped by setting, with intervals over the runs of each."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrl_graph.comparison.interval import mean_intervals
from genrl_graph.comparison.settings import NamedRun, named_runs, params_of, setting_params
from genrl_graph.errors import ParamError
from genrl_graph.store.peer_folders import graph_folder
from genrl_graph.view.curve import SPANS, Curve, Floats, Points
from genrl_graph.view.watched_run import RunName, WatchedRun

MOST_RUNS = 500
REFRESH_S = 0.4
"""Seconds between reads of the run folders; requests that come faster get what was read last."""
MOST_CHOSEN = 24
"""The most metrics of one request."""


@dataclass(slots=True)
class Watched:
    """The runs of a page, in the order of the arguments; `notes` tell of cells without a run."""

    runs: Sequence[WatchedRun]
    notes: Sequence[str]
    _lock: threading.Lock
    _next: float = 0.0

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
        """Read what the runs have gained, at most every `REFRESH_S`; returns whether anything changed."""
        with self._lock:
            if time.monotonic() < self._next:
                return False
            changed = [run.refresh() for run in self.runs]
            self._next = time.monotonic() + REFRESH_S
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
        """Return the names of all runs, and all metrics with the number of values."""
        counts: dict[str, int] = {}
        for run in self.runs:
            with run.lock:
                for name, curve in run.metrics.curves.items():
                    counts[name] = counts.get(name, 0) + curve.count
        runs = [
            {"name": run.title, "setting": run.names.setting, "seed": run.names.seed, "graph": run.stored.graph.name}
            for run in self.runs
        ]
        return {
            "runs": runs,
            "metrics": sorted(name for name, count in counts.items() if count),
            "notes": [*self.notes],
        }

    def curves(self, names: Sequence[str], *, spans: int = SPANS) -> dict[str, Any]:
        """Return the curves of some metrics by setting: the mean over its runs with its interval, and each run."""
        return {name: self._curves(name, spans) for name in names[:MOST_CHOSEN]}

    def _curves(self, name: str, spans: int) -> list[dict[str, Any]]:
        by_setting: dict[str, list[tuple[int, Curve]]] = {}
        for number, run in enumerate(self.runs):
            with run.lock:
                if (curve := run.metrics.curves.get(name)) is not None and curve.count:
                    by_setting.setdefault(run.names.setting, []).append((number, curve))
        widest = max((curve.width for curves in by_setting.values() for _, curve in curves), default=1)
        longest = max((curve.rounds for curves in by_setting.values() for _, curve in curves), default=0)
        while longest > spans * widest:
            widest *= 2
        settings = []
        for setting, curves in by_setting.items():
            points = {number: curve.points(widest) for number, curve in curves}
            settings.append({"setting": setting, **_over_runs(points), "span": widest})
        return settings


def _over_runs(points: Mapping[int, Points]) -> dict[str, Any]:
    """Return the mean over runs with its 95 % interval at each span; of one run its mean, lowest and highest value."""
    if len(points) == 1:
        ((number, only),) = points.items()
        shown = {"rounds": only.rounds, "mean": only.mean, "low": only.low, "high": only.high}
        return {**{key: _values(array) for key, array in shown.items()}, "runs": [number], "each": []}
    rounds = np.unique(np.concatenate([each.rounds for each in points.values()]))
    values = np.full((len(points), len(rounds)), np.nan)
    for row, each in zip(values, points.values(), strict=True):
        row[np.searchsorted(rounds, each.rounds)] = each.mean
    between = mean_intervals(values)
    shown = {"rounds": rounds, "mean": between.mean, "low": between.low, "high": between.high}
    each_run = [_values(row) for row in values]
    return {**{key: _values(array) for key, array in shown.items()}, "runs": list(points), "each": each_run}


def _values(values: Floats) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


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
