"""A curve of any length in bounded memory: means, lows and highs over equal spans of rounds."""

from array import array
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SPANS = 512
"""The most spans of a curve; where more rounds come, each span covers twice as many."""
MOST_METRICS = 4000
"""The most metrics of a run that are kept; each takes at most 16 kB."""


@dataclass(slots=True)
class Points:
    """A curve as it is drawn: the first round of each span, and mean, lowest and highest value in it."""

    rounds: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(slots=True)
class Curve:
    """The values of a metric over the rounds of a run and its peers, `width` rounds a span.

    `last` is the mean over the peers in the last round that reports it, `total` the sum of all values.
    """

    width: int = 1
    total: float = 0.0
    count: int = 0
    _sums: "array[float]" = field(default_factory=lambda: array("d"))
    _counts: "array[float]" = field(default_factory=lambda: array("d"))
    _lows: "array[float]" = field(default_factory=lambda: array("d"))
    _highs: "array[float]" = field(default_factory=lambda: array("d"))
    _last_round: int = -1
    _last_sum: float = 0.0
    _last_count: int = 0

    def add(self, round: int, value: float | None) -> None:
        """Add the value of one peer in a round; None and values that are not finite leave a gap."""
        if value is None or not isfinite(value):
            return
        if round != self._last_round:
            self._last_round, self._last_sum, self._last_count = round, 0.0, 0
        self._last_sum, self._last_count = self._last_sum + value, self._last_count + 1
        self.total, self.count = self.total + value, self.count + 1
        while round // self.width >= SPANS:
            self._halve()
        at = round // self.width
        if at >= len(self._sums):
            self._grow(at + 1)
        self._sums[at] += value
        self._counts[at] += 1
        self._lows[at] = min(self._lows[at], value)
        self._highs[at] = max(self._highs[at], value)

    @property
    def rounds(self) -> int:
        """The number of rounds that the spans cover."""
        return len(self._sums) * self.width

    @property
    def last(self) -> float | None:
        """The mean over the peers in the last round."""
        return self._last_sum / self._last_count if self._last_count else None

    @property
    def mean(self) -> float | None:
        """The mean of all values."""
        return self.total / self.count if self.count else None

    def points(self, width: int = 1) -> Points:
        """Return the points of the curve, in spans of at least `width` rounds, which is a power of two."""
        sums, counts, lows, highs = (np.frombuffer(a, np.float64).copy() for a in self._arrays())
        span = self.width
        while span < width:
            sums, counts = _pairs(sums, 0.0).sum(axis=1), _pairs(counts, 0.0).sum(axis=1)
            lows, highs = _pairs(lows, np.inf).min(axis=1), _pairs(highs, -np.inf).max(axis=1)
            span *= 2
        known = counts > 0
        rounds = np.flatnonzero(known).astype(np.float64) * span
        return Points(rounds, sums[known] / counts[known], lows[known], highs[known])

    def _arrays(self) -> "tuple[array[float], array[float], array[float], array[float]]":
        return self._sums, self._counts, self._lows, self._highs

    def _grow(self, length: int) -> None:
        for values, filler in zip(self._arrays(), (0.0, 0.0, np.inf, -np.inf), strict=True):
            values.extend([filler] * (length - len(values)))

    def _halve(self) -> None:
        """Merge each two neighbouring spans."""
        sums, counts, lows, highs = (np.frombuffer(a, np.float64).copy() for a in self._arrays())
        self._sums = array("d", _pairs(sums, 0.0).sum(axis=1))
        self._counts = array("d", _pairs(counts, 0.0).sum(axis=1))
        self._lows = array("d", _pairs(lows, np.inf).min(axis=1))
        self._highs = array("d", _pairs(highs, -np.inf).max(axis=1))
        self.width *= 2


def _pairs(values: Floats, filler: float) -> Floats:
    """Return the values two by two, shape (half, 2), the last pair filled up."""
    return np.append(values, [filler] * (len(values) % 2)).reshape(-1, 2)
