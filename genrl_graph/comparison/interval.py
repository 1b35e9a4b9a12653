"""Confidence intervals of means over runs, by a studentised bootstrap: the run is the unit that is drawn again.

With five runs, the percentile bootstrap covers the mean in 84 % of cases where it promises 95 %, and BCa is no better:
a resample of few values spreads less than the values do. The symmetric studentised bootstrap draws
t = |mean* - mean| / error* instead, and mean +- quantile * error is the interval (Hall, On Symmetric Bootstrap
Confidence Intervals, 1988; Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 5.3; for runs of
reinforcement learning Colas et al., How Many Random Seeds?, 2018). Where most of a few runs are almost equal, the
quantile is that of resamples without spread. It is therefore kept between Student's, which is exact for normal values,
and `MOST_TIMES` that: with twice that, five runs would show a difference half as often, and cover it hardly better.

Two to four runs have too few resamples: theirs is Student's interval. One run has none.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
FEWEST = 5
"""The fewest runs of a studentised bootstrap."""
MOST_TIMES = 1.25
ALL_UP_TO = 7
"""The most runs of which all resamples are used, each with its probability; of more, `DRAWS` are drawn."""
DRAWS = 1999
BLOCK = 256
NORMAL = 1.959963984540054
STUDENT = (12.706204736, 4.302652730, 3.182446305, 2.776445105)
"""The 97.5 % quantiles of the normal distribution, and of Student's t with 1 to 4 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Means with their 95 % intervals at several positions, and over how many runs; NaN where there is none."""

    mean: Floats
    low: Floats
    high: Floats
    runs: NDArray[np.int64]


def mean_intervals(values: Floats) -> Intervals:
    """Return the mean over runs with its interval at each position; `values` has a row per run.

    A run that is NaN at a position is left out there.
    """
    known = np.isfinite(values)
    mean, half = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    patterns, which = np.unique(known.T, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        at = np.flatnonzero(which.reshape(-1) == number)
        for start in range(0, len(at), BLOCK):
            block = at[start : start + BLOCK]
            chosen = values[np.ix_(pattern, block)]
            if len(chosen):
                mean[block], half[block] = chosen.mean(axis=0), _half_widths(chosen)
    return Intervals(mean, mean - half, mean + half, known.sum(axis=0))


def difference_interval(first: Floats, second: Floats) -> tuple[float, float, float]:
    """Return mean(first) - mean(second) with its interval, of runs that share no seeds: each side is drawn by itself.

    Student's quantile is Welch's: that of the degrees of freedom that both variances leave.
    """
    sides = [side[np.isfinite(side)] for side in (first, second)]
    sizes = [len(side) for side in sides]
    if min(sizes) == 0:
        return math.nan, math.nan, math.nan
    difference = float(sides[0].mean() - sides[1].mean())
    if min(sizes) == 1:
        return difference, math.nan, math.nan
    parts = [float(side.var(ddof=1)) / len(side) for side in sides]
    student = _student(_welch(parts, sizes))
    quantile = np.array([student])
    if min(sizes) >= FEWEST:
        drawn = [_moments((side - side.mean())[:, None], _draw(len(side), number)) for number, side in enumerate(sides)]
        (means, squares), (others, other_squares) = drawn
        pivots = _pivots(means - others, squares + other_squares)
        quantile = _quantile(pivots, np.full(len(pivots), 1 / len(pivots)), student)
    half = float(quantile[0]) * math.sqrt(sum(parts))
    return difference, difference - half, difference + half


def _half_widths(values: Floats) -> Floats:
    """Return half of the width of the interval at each position, of runs that all have a value there."""
    runs = len(values)
    if runs == 1:
        return np.full(values.shape[1], np.nan)
    error = values.std(axis=0, ddof=1) / math.sqrt(runs)
    student = _student(runs - 1)
    half: Floats = student * error
    if runs >= FEWEST:
        weights, chances = _resamples(runs)
        drawn, squares = _moments(values - values.mean(axis=0), weights)
        half = _quantile(_pivots(drawn, squares), chances, student) * error
    return half


def _moments(centred: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the mean of each resample, and the square of its standard error."""
    drawn = weights @ centred
    variance = weights @ (centred * centred) - drawn * drawn
    rounding = 1e-12 * (centred * centred).mean(axis=0)
    return drawn, np.where(variance > rounding, variance, 0.0) / (len(centred) - 1)


def _pivots(drawn: Floats, squares: Floats) -> Floats:
    """Return |mean* - mean| / error*: infinite for a resample without spread, 0 where its mean is the mean."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.abs(drawn) / np.sqrt(squares), nan=0.0, posinf=np.inf)


def _quantile(pivots: Floats, chances: Floats, student: float) -> Floats:
    """Return the 95 % quantile of each column, kept between Student's and `MOST_TIMES` that."""
    order = np.argsort(pivots, axis=0)
    reached = np.cumsum(chances[order], axis=0) >= LEVEL - 1e-9
    chosen = np.take_along_axis(order, reached.argmax(axis=0)[None, :], axis=0)
    quantiles: Floats = np.clip(np.take_along_axis(pivots, chosen, axis=0)[0], student, MOST_TIMES * student)
    return quantiles


def _student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t (Abramowitz and Stegun, 26.7.5, from 5 degrees of freedom on)."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NORMAL
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4)
    )


def _welch(parts: list[float], sizes: list[int]) -> int:
    """Return Welch's degrees of freedom, rounded down; those of the smaller side where nothing varies."""
    spread = sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    return max(min(sizes) - 1, int(sum(parts) ** 2 / spread) if spread > 0 else 1)


@lru_cache(maxsize=64)
def _resamples(runs: int) -> tuple[Floats, Floats]:
    """Return resamples as the share of each run, and the probability of each: all of them, or `DRAWS`."""
    if runs > ALL_UP_TO:
        return _draw(runs, 0), np.full(DRAWS, 1 / DRAWS)
    drawn = [np.bincount(chosen, minlength=runs) for chosen in combinations_with_replacement(range(runs), runs)]
    ways = [math.factorial(runs) / math.prod(math.factorial(int(count)) for count in counts) for counts in drawn]
    return np.array(drawn) / runs, np.array(ways) / runs**runs


@lru_cache(maxsize=64)
def _draw(runs: int, seed: int) -> Floats:
    chosen = np.random.default_rng([seed, runs]).integers(0, runs, (DRAWS, runs))
    counts = np.zeros((DRAWS, runs))
    np.add.at(counts, (np.arange(DRAWS)[:, None], chosen), 1)
    return counts / runs
