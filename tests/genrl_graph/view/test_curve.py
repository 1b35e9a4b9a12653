"""Curves of any length in bounded memory, against numpy."""

import numpy as np
import pytest

from genrl_graph.view.curve import MOST_METRICS, SPANS, Curves


@pytest.mark.parametrize("rounds", [1, 511, 512, 513, 5000])
def test_a_curve_has_the_means_lows_and_highs_of_its_spans(rounds: int) -> None:
    values = np.random.default_rng(rounds).normal(size=(rounds, 2))
    curves = Curves()
    for round, peers in enumerate(values):
        for value in peers:
            curves.add(round, {"other": -1.0, "x": float(value)} if round else {"x": float(value)})
    curve = curves["x"]
    points = curve.points()
    assert len(points.rounds) <= SPANS and curve.width * SPANS >= rounds
    spans = [values[start : start + curve.width] for start in range(0, rounds, curve.width)]
    np.testing.assert_allclose(points.mean, [span.mean() for span in spans])
    np.testing.assert_array_equal(points.low, [span.min() for span in spans])
    np.testing.assert_array_equal(points.high, [span.max() for span in spans])
    np.testing.assert_array_equal(points.rounds, np.arange(len(spans)) * curve.width)
    assert curve.last == pytest.approx(values[-1].mean()) and curve.total == pytest.approx(values.sum())
    wider = curve.points(curve.width * 2)
    assert len(wider.rounds) == -(-len(spans) // 2)
    np.testing.assert_allclose(wider.mean[0], values[: curve.width * 2].mean())


def test_gaps_stay_gaps() -> None:
    curves = Curves()
    for round, value in ((0, 1.0), (1, None), (2, float("nan")), (700, 3.0)):
        curves.add(round, {"x": value, "never": None})
    curve = curves["x"]
    assert list(curves) == ["x"] and len(curves) == 1 and "never" not in curves
    assert curve.points().rounds.tolist() == [0.0, 700.0] and curve.mean == 2.0 and curve.count == 2


def test_only_the_spans_that_changed_are_told_again() -> None:
    curves = Curves()
    for round in range(600):
        curves.add(round, {"x": 1.0})
    curve, seen = curves["x"], curves["x"].count
    assert curve.width == 2 and not len(curve.points(since=seen).rounds)
    for round in (40, 599, 601):  # a peer that is late, one more peer, a new round
        curves.add(round, {"x": 4.0})
    assert curve.points(since=seen).rounds.tolist() == [40.0, 598.0, 600.0]
    assert curve.points(8, since=seen).rounds.tolist() == [40.0, 592.0, 600.0]
    assert curve.points(8, since=seen).mean.tolist() == [12 / 9, 12 / 9, 4.0]
    many = {f"m{at}": 1.0 for at in range(MOST_METRICS + 5)}
    curves.add(700, many)
    assert curves.dropped and len(curves) == MOST_METRICS


def test_sums_that_are_too_large_are_no_numbers() -> None:
    curves = Curves()
    for value in (1.7e308, 1.7e308, -1.7e308):
        curves.add(0, {"x": value})
    curve = curves["x"]
    assert (curve.count, curve.total, curve.mean, curve.last) == (3, None, None, None)
    assert curve.points().high.tolist() == [1.7e308]
