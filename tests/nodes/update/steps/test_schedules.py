"""Learning-rate schedules."""

from typing import Literal

import pytest

from genrl_graph.nodes.update.steps.schedules import rate_factor


def test_warm_up_reaches_the_peak_and_stays() -> None:
    factors = [rate_factor(step, decay="constant", warmup_steps=4, decay_steps=0) for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("decay", "middle"), [("linear", 0.5), ("cosine", 0.5)])
def test_decays_end_at_zero_and_stay(decay: Literal["linear", "cosine"], middle: float) -> None:
    at = {step: rate_factor(step, decay=decay, warmup_steps=2, decay_steps=10) for step in (2, 7, 12, 50)}
    assert at[2] == 1.0
    assert at[7] == pytest.approx(middle)
    assert at[12] == pytest.approx(0.0, abs=1e-12)
    assert at[50] == pytest.approx(0.0, abs=1e-12)


def test_cosine_is_above_linear_in_the_first_half_and_below_in_the_second() -> None:
    for step, above in ((3, True), (8, False)):
        cosine = rate_factor(step, decay="cosine", warmup_steps=0, decay_steps=10)
        linear = rate_factor(step, decay="linear", warmup_steps=0, decay_steps=10)
        assert (cosine > linear) is above
