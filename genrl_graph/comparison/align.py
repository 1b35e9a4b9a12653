"""Metrics of several runs at equal positions: equal rounds, tokens or seconds, smoothed as declared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from genrl_graph.comparison.history import EVAL, Series, Unit
from genrl_graph.comparison.settings import ComparedRun, Setting
from genrl_graph.errors import ParamError
from genrl_graph.inspection.plot import default_window, smoothed

Floats = NDArray[np.float64]

POSITIONS = 200
"""The most positions at which curves are compared."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """A metric at common positions: by setting and seed, the value at each, averaged over `window` rounds."""

    metric: str
    positions: Floats
    values: Mapping[str, Mapping[int, Floats]]
    window: int

    def matrix(self, label: str) -> Floats:
        """Return the values of a setting, with a row per run in the order of the seeds."""
        return np.array(list(self.values[label].values()))

    def at(self, position: float | None) -> int:
        """Return the index of the last position at or before the given one; the last of all for None.

        Raises `ParamError` for a position before the first one.
        """
        if position is None:
            return len(self.positions) - 1
        index = int(np.searchsorted(self.positions, position, side="right")) - 1
        if index < 0:
            raise ParamError(f"{self.metric}: is compared from {self.positions[0]:g} on, not at {position:g}")
        return index


def align(metric: str, settings: Sequence[Setting], unit: Unit, window: int | None) -> Aligned | None:
    """Return a metric of the runs that report it, at positions that all of these reached; None where there are none.

    By rounds, these are rounds that all of them report. By another unit they are evenly spread, and a run has at each
    the value that it reported last. A value stands at what its run had spent before that round, or evaluation.
    """
    runs = [run for setting in settings for run in setting.runs.values() if metric in run.history.series]
    if not runs:
        return None
    evaluation = metric.startswith(EVAL)
    longest = max(len(run.history.series[metric].rounds) for run in runs)
    window = 1 if evaluation else window or default_window(longest)
    positions = _common_rounds(metric, runs) if unit == "rounds" else _common_grid(metric, runs, unit, evaluation)
    if not len(positions):
        return None
    values = {
        setting.label: {
            seed: _values_at(positions, run, metric, unit, window)
            for seed, run in setting.runs.items()
            if metric in run.history.series
        }
        for setting in settings
    }
    return Aligned(metric, positions, {label: by_seed for label, by_seed in values.items() if by_seed}, window)


def _common_rounds(metric: str, runs: Iterable[ComparedRun]) -> Floats:
    """Return rounds that all runs report."""
    common = reduce(np.intersect1d, (run.history.series[metric].rounds for run in runs))
    return _thinned(common.astype(np.float64))


def _common_grid(metric: str, runs: Sequence[ComparedRun], unit: Unit, evaluation: bool) -> Floats:
    """Return evenly spread positions between the latest start and the earliest end; of evaluations, their own ones.

    Raises `ParamError` for a run that does not spend this unit.
    """
    for run in runs:
        if run.history.spent[unit][-1] <= 0:
            raise ParamError(f"--at {unit}: {run.folder} reports none; compare at rounds or seconds")
    own = [run.history.positions(metric, unit) for run in runs]
    starts, ends = [places[0] for places in own], [places[-1] for places in own]
    if min(ends) < max(starts):
        return np.array([])
    if not evaluation:
        return np.unique(np.linspace(max(starts), min(ends), POSITIONS))
    places: Floats = np.unique(np.concatenate(own))
    places = places[(places >= max(starts)) & (places <= min(ends))]
    return _thinned(places)


def _thinned(places: Floats) -> Floats:
    """Return at most `POSITIONS` of some positions, evenly spread, with the first and the last."""
    thinned: Floats = places[
        np.unique(np.linspace(0, len(places) - 1, min(len(places), POSITIONS)).round().astype(int))
    ]
    return thinned


def _values_at(positions: Floats, run: ComparedRun, metric: str, unit: Unit, window: int) -> Floats:
    series = run.history.series[metric]
    values: Floats = _smooth(series, window)
    return values[np.searchsorted(run.history.positions(metric, unit), positions, side="right") - 1]


def _smooth(series: Series, window: int) -> Floats:
    """Return the running mean; where a round itself is not finite, so is its mean: a gap is shown, not filled."""
    if window == 1:
        return series.values
    return np.where(np.isfinite(series.values), smoothed(series.values.tolist(), window), np.nan)
