"""The curves that one page shows, and what it lacks of them: by setting, with intervals over the runs of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genrl_graph.comparison.interval import mean_intervals
from genrl_graph.view.curve import SPANS, Floats
from genrl_graph.view.watched import Member, Watched

MOST_CHOSEN = 24
"""The most metrics that are asked for at once."""


class ShownCurves:
    """Tells a page its curves once, and then the spans that have changed since it was told."""

    def __init__(self, watched: Watched, *, spans: int = SPANS) -> None:
        self._watched, self._spans = watched, spans
        self._shapes: dict[str, Mapping[str, Sequence[int]]] = {}
        self._counts: dict[tuple[str, int], int] = {}

    def news(self, names: Sequence[str]) -> dict[str, Any]:
        """Return what is new of some metrics: of each whether it is the `whole` curve, and the points by setting.

        A point is the mean over the runs of a setting with its 95 % interval; of one run its mean, lowest and highest
        value. Curves are told as a whole the first time, and where spans have become wider or runs have come.
        """
        news: dict[str, Any] = {}
        for name in names[:MOST_CHOSEN]:
            settings = self._watched.members(name)
            span = self._span(settings)
            shape = {setting: (span, *(member.number for member in members)) for setting, members in settings.items()}
            whole = shape != self._shapes.get(name)
            self._shapes[name] = shape
            told = [self._told(name, setting, members, span, whole) for setting, members in settings.items()]
            if whole or any(told):
                news[name] = {"whole": whole, "settings": [each for each in told if each]}
        return news

    def _span(self, settings: Mapping[str, Sequence[Member]]) -> int:
        """Return the rounds of a point: as many as the widest curve has, and so many that there are few enough."""
        members = [member for each in settings.values() for member in each]
        span = max((member.curve.width for member in members), default=1)
        longest = max((member.curve.rounds for member in members), default=0)
        while longest > self._spans * span:
            span *= 2
        return span

    def _told(self, name: str, setting: str, members: Sequence[Member], span: int, whole: bool) -> dict[str, Any]:
        since = {member.number: 0 if whole else self._counts.get((name, member.number), 0) for member in members}
        points: dict[int, tuple[Floats, ...]] = {}
        changed: list[Floats] = []
        for member in members:
            with member.run.lock:
                curve, number = member.curve, member.number
                self._counts[name, number] = curve.count
                part = curve.points(span, since=since[number])
                changed.append(part.rounds)
                each = curve.points(span) if len(members) > 1 else part
                points[number] = (each.rounds, each.mean, each.low, each.high)
        rounds = np.unique(np.concatenate(changed))
        if not len(rounds):
            return {}
        shown = next(iter(points.values()))[1:] if len(points) == 1 else _over_runs(list(points.values()), rounds)
        values = zip(("rounds", "mean", "low", "high"), (rounds, *shown), strict=True)
        return {"setting": setting, "runs": list(points), "span": span} | {key: _values(each) for key, each in values}


def _over_runs(runs: Sequence[tuple[Floats, ...]], rounds: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the mean over runs at some rounds, with its 95 % interval."""
    values = np.full((len(runs), len(rounds)), np.nan)
    for row, (of_run, mean, *_) in zip(values, runs, strict=True):
        _, at, of = np.intersect1d(rounds, of_run, assume_unique=True, return_indices=True)
        row[at] = mean[of]
    between = mean_intervals(values)
    return between.mean, between.low, between.high


def _values(values: Floats) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]
