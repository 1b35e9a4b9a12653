"""Intervals of means over runs: references of numpy and scipy, coverage, gaps, and few or equal runs."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from genrl_graph.comparison.interval import MOST_TIMES, difference_interval, mean_intervals

Floats = NDArray[np.float64]


def interval_of(values: Floats) -> tuple[float, float]:
    """Return the interval of one position."""
    found = mean_intervals(values[:, None])
    return float(found.low[0]), float(found.high[0])


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_of_two_to_four_runs_it_is_students(runs: int) -> None:
    values = np.random.default_rng(runs).normal(5, 2, runs)
    expected = stats.t.interval(0.95, runs - 1, values.mean(), stats.sem(values))
    assert interval_of(values) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_of_five_runs_it_is_that_of_all_resamples_in_a_plain_loop(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(size=5)
    pivots = []
    for chosen in itertools.product(range(5), repeat=5):
        drawn = values[list(chosen)]
        distance, error = abs(drawn.mean() - values.mean()), drawn.std(ddof=1) / math.sqrt(5)
        pivots.append(distance / error if error > 1e-9 else math.inf if distance > 1e-9 else 0.0)
    student = stats.t.ppf(0.975, 4)
    quantile = np.clip(np.sort(pivots)[math.ceil(0.95 * len(pivots)) - 1], student, MOST_TIMES * student)
    half = quantile * stats.sem(values)
    assert interval_of(values) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-6)


def test_of_many_runs_it_is_close_to_scipys_bootstrap() -> None:
    values = np.random.default_rng(3).exponential(size=60)
    expected = stats.bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    low, high = interval_of(values)
    assert high - low == pytest.approx(expected.high - expected.low, rel=0.15)
    assert abs((low + high) / 2 - (expected.low + expected.high) / 2) < 0.15 * (high - low)


@pytest.mark.parametrize(("first", "second"), [(2, 4), (3, 9)])
def test_of_runs_without_common_seeds_it_is_welchs_where_one_side_is_small(first: int, second: int) -> None:
    rng = np.random.default_rng(first)
    one, other = rng.normal(1, 1, first), rng.normal(0, 3, second)
    difference, low, high = difference_interval(one, other)
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert difference == pytest.approx(one.mean() - other.mean())
    # the degrees of freedom are rounded down, so it is as wide or somewhat wider
    assert low <= expected.low + 1e-9
    assert high >= expected.high - 1e-9
    assert high - low < 1.6 * (expected.high - expected.low)


@pytest.mark.parametrize("runs", [2, 3, 5, 6, 8, 12])
def test_it_covers_the_mean_as_often_as_it_says(runs: int, capsys: pytest.CaptureFixture[str]) -> None:
    count = 1500 if runs < 8 else 400
    found = mean_intervals(np.random.default_rng(runs).normal(0, 1, (runs, count)))
    coverage = float(np.mean((found.low <= 0) & (found.high >= 0)))
    with capsys.disabled():
        print(f" coverage of {runs} runs: {coverage:.3f}", end="")
    assert coverage > 0.93


def test_of_unpaired_runs_it_covers_the_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [difference_interval(rng.normal(0, 1, 5), rng.normal(0, 3, 6)) for _ in range(200)]
    assert sum(low <= 0 <= high for _, low, high in intervals) >= 186


def test_one_run_has_a_mean_and_no_interval() -> None:
    found = mean_intervals(np.array([[1.0, 2.0]]))
    assert found.mean.tolist() == [1, 2]
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()
    assert all(map(math.isnan, difference_interval(np.array([1.0]), np.array([2.0, 3.0]))[1:]))


def test_a_run_without_a_value_is_left_out_at_that_position_only() -> None:
    values = np.random.default_rng(0).normal(size=(6, 3))
    holed = values.copy()
    holed[2, 1] = np.nan
    found, whole = mean_intervals(holed), mean_intervals(values)
    assert found.runs.tolist() == [6, 5, 6]
    assert found.low[[0, 2]].tolist() == whole.low[[0, 2]].tolist()
    assert (found.low[1], found.high[1]) == interval_of(np.delete(values[:, 1], 2))


def test_equal_runs_have_an_interval_of_no_width_and_almost_equal_ones_one_that_ends() -> None:
    assert interval_of(np.full(5, 0.7)) == (0.7, 0.7)
    one_failed = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    half = MOST_TIMES * stats.t.ppf(0.975, 4) * 0.2
    assert interval_of(one_failed) == pytest.approx((0.8 - half, 0.8 + half))


def test_a_position_without_any_value_has_none() -> None:
    found = mean_intervals(np.full((5, 1), np.nan))
    assert math.isnan(found.mean[0])
    assert found.runs.tolist() == [0]
