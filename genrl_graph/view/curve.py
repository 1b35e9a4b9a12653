"""Curves of any length in bounded memory: means, lows and highs over equal spans of rounds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Columns = NDArray[np.intp]

SPANS = 512
"""The most spans of a curve; where more rounds come, each span covers twice as many."""
MOST_METRICS = 4000
"""The most metrics of a run that are kept; each takes at most 20 kB."""
FIRST_COLUMNS, FIRST_SPANS = 16, 32


@dataclass(slots=True)
class Points:
    """A curve as it is drawn: the first round of each span, and mean, lowest and highest value in it."""

    rounds: Floats
    mean: Floats
    low: Floats
    high: Floats


class Curves(Mapping[str, "Curve"]):
    """The values of the metrics of a run over its rounds and peers, `width` rounds a span; those that have values.

    `dropped` tells that there are more metrics than are kept.
    """

    def __init__(self) -> None:
        self.dropped = False
        self.clear()

    def clear(self) -> None:
        """Forget all values."""
        self.width, self.spans = 1, 0
        self._column: dict[str, int] = {}
        self._latest: tuple[tuple[str, ...], Columns] = ((), np.empty(0, np.intp))
        self.by_span = np.empty((len(_FILLERS), 0, 0))  # sums, counts, lows, highs, and the count after the last change
        self.totals = np.empty((3, 0))  # of all values: sum, count; and the last round
        self.lasts = np.empty((2, 0))  # of the last round: sum, count

    def __getitem__(self, name: str) -> "Curve":
        column = self._column[name]
        if not self.totals[1, column]:
            raise KeyError(name)
        return Curve(self, column)

    def __iter__(self) -> Iterator[str]:
        return (name for name, column in self._column.items() if self.totals[1, column])

    def __len__(self) -> int:
        return int(np.count_nonzero(self.totals[1]))

    def add(self, round: int, values: Mapping[str, float | None]) -> Sequence[str]:
        """Add the values of one peer in a round, and return the metrics that are new.

        None and values that are not finite leave a gap.
        """
        names = tuple(values)
        new = () if names == self._latest[0] else self._look_up(names)
        columns = self._latest[1]
        numbers = np.fromiter((np.nan if value is None else value for value in values.values()), np.float64, len(names))
        known = np.isfinite(numbers) & (columns >= 0)
        if not known.all():
            columns, numbers = columns[known], numbers[known]
        with np.errstate(over="ignore", invalid="ignore"):
            self._add(round, columns, numbers)
        return new

    def _add(self, round: int, columns: Columns, numbers: Floats) -> None:
        while round // self.width >= SPANS:
            self.by_span = np.stack(_merged(list(self.by_span)))
            self.width *= 2
            self.spans = -(-self.spans // 2)
        at = round // self.width
        if at >= self.by_span.shape[1]:
            self._grow(min(SPANS, max(at + 1, 2 * self.by_span.shape[1], FIRST_SPANS)), len(self.totals[0]))
        self.spans = max(self.spans, at + 1)
        self.lasts[:, columns[self.totals[2, columns] != round]] = 0.0
        self.lasts[0, columns] += numbers
        self.lasts[1, columns] += 1.0
        self.totals[0, columns] += numbers
        self.totals[1, columns] += 1.0
        self.totals[2, columns] = round
        sums, counts, lows, highs, seen = (values[at] for values in self.by_span)
        sums[columns] += numbers
        counts[columns] += 1.0
        lows[columns] = np.minimum(lows[columns], numbers)
        highs[columns] = np.maximum(highs[columns], numbers)
        seen[columns] = self.totals[1, columns]

    def _look_up(self, names: tuple[str, ...]) -> Sequence[str]:
        """Find the columns of some metrics, -1 for those that are too many, and return those that are new."""
        new = [name for name in names if name not in self._column]
        room = MOST_METRICS - len(self._column)
        self.dropped |= len(new) > room
        self._column |= {name: len(self._column) + at for at, name in enumerate(new[:room])}
        if len(self._column) > len(self.totals[0]):
            columns = max(len(self._column), 2 * len(self.totals[0]), FIRST_COLUMNS)
            self._grow(self.by_span.shape[1], min(columns, MOST_METRICS))
        self._latest = names, np.array([self._column.get(name, -1) for name in names], np.intp)
        return new[:room]

    def _grow(self, spans: int, columns: int) -> None:
        grown = np.broadcast_to(np.array(_FILLERS)[:, None, None], (len(_FILLERS), spans, columns)).copy()
        grown[:, : self.by_span.shape[1], : self.by_span.shape[2]] = self.by_span
        self.by_span = grown
        more = columns - len(self.totals[0])
        self.totals = np.hstack([self.totals, np.tile([[0.0], [0.0], [-1.0]], more)])
        self.lasts = np.hstack([self.lasts, np.zeros((2, more))])


@dataclass(frozen=True, slots=True)
class Curve:
    """One of the curves of a run, as it is now."""

    of: Curves
    column: int

    @property
    def width(self) -> int:
        """The number of rounds of a span."""
        return self.of.width

    @property
    def rounds(self) -> int:
        """The number of rounds that the spans cover."""
        return self.of.spans * self.of.width

    @property
    def total(self) -> float | None:
        """The sum of all values, None where it is too large for a number."""
        return _finite(self.of.totals[0, self.column])

    @property
    def count(self) -> int:
        """The number of values; who has seen so many asks `points` for the spans that changed since."""
        return int(self.of.totals[1, self.column])

    @property
    def last(self) -> float | None:
        """The mean over the peers in the last round that reports it."""
        total, count = self.of.lasts[:, self.column]
        return _finite(total / count)

    @property
    def mean(self) -> float | None:
        """The mean of all values."""
        return _finite(self.of.totals[0, self.column] / self.count)

    def points(self, width: int = 1, *, since: int = 0) -> Points:
        """Return the points of the curve, in spans of at least `width` rounds, which is a power of two.

        `since` leaves out the spans that have not changed after the curve had so many values.
        """
        arrays, span = list(self.of.by_span[:, : self.of.spans, self.column]), self.of.width
        while span < width:
            arrays, span = _merged(arrays), span * 2
        sums, counts, lows, highs, seen = arrays
        known = (counts > 0) & (seen > since)
        rounds = np.flatnonzero(known).astype(np.float64) * span
        return Points(rounds, sums[known] / counts[known], lows[known], highs[known])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


_FILLERS = (0.0, 0.0, np.inf, -np.inf, 0.0)
_MERGES: tuple[Callable[..., Floats], ...] = (np.sum, np.sum, np.min, np.max, np.max)


def _merged(arrays: Sequence[Floats]) -> list[Floats]:
    """Return sums, counts, lows, highs and last changes of spans, the first axis, of twice the width."""
    each = zip(arrays, _FILLERS, _MERGES, strict=True)
    return [merge(_pairs(values, filler), axis=1) for values, filler, merge in each]


def _pairs(values: Floats, filler: float) -> Floats:
    """Return the values two by two, shape (half, 2, ...), the last pair filled up."""
    if len(values) % 2:
        values = np.concatenate([values, np.full((1, *values.shape[1:]), filler)])
    return values.reshape(-1, 2, *values.shape[1:])
