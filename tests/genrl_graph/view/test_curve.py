"""Curves of any length in bounded memory, against numpy."""

import numpy as np
import pytest

from genrl_graph.view.curve import SPANS, Curve


@pytest.mark.parametrize("rounds", [1, 511, 512, 513, 5000])
def test_a_curve_has_the_means_lows_and_highs_of_its_spans(rounds: int) -> None:
    values = np.random.default_rng(rounds).normal(size=(rounds, 2))
    curve = Curve()
    for round, peers in enumerate(values):
        for value in peers:
            curve.add(round, float(value))
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
    curve = Curve()
    for round, value in ((0, 1.0), (1, None), (2, float("nan")), (700, 3.0)):
        curve.add(round, value)
    assert curve.points().rounds.tolist() == [0.0, 700.0] and curve.mean == 2.0 and curve.count == 2
