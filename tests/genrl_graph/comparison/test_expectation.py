"""Expectations: the grammar, and when they are met."""

import math

import pytest

from genrl_graph.comparison.expectation import Term, judge, parse_expectation, the_metric
from genrl_graph.errors import ParamError

VALUES = {
    "a": {0: 0.80, 1: 0.82, 2: 0.81, 3: 0.79, 4: 0.83},
    "b": {0: 0.70, 1: 0.72, 2: 0.71, 3: 0.69, 4: 0.73},
    "lr=0.1, x<2": {5: 0.50, 6: 0.52, 7: 0.51, 8: 0.49, 9: 0.53},
    "one": {0: 0.9},
    "lost": {0: 0.7, 1: math.nan, 2: 0.7},
}


def value_of(term: Term) -> dict[int, float]:
    """Return the values of a setting; before training they are all 0.1."""
    return {seed: 0.1 if term.at == 0 else value for seed, value in VALUES[term.label].items()}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("m(a) > m(b)", True),
        ("m(a) >= m(b)", True),
        ("m(b) > m(a)", False),
        ("m(b) < m(a)", True),
        ("m(a) > m(b) + 0.05", True),
        ("m(a) > m(b) + 0.2", False),
        ("m(a) - m(b) > 0.05", True),
        ("m(a) > 0.7", True),
        ("0.7 < m(a)", True),
        ("m(a) > 0.81", False),
        ("m(a) > m(a@0)", True),
        ("m(a) = m(b) +- 0.2", True),
        ("m(a) == m(b) +- 0.05", False),
        ("m(a) = m(a) +- 0.001", True),
        ("m(a) > m(lr=0.1, x<2)", True),
        ("m(lr=0.1, x<2) > m(a)", False),
        ("m(one) > 0.1", False),
        ("m(a) > m(lost)", False),
    ],
)
def test_it_is_met_where_an_interval_says_so(text: str, met: bool) -> None:
    assert judge(parse_expectation(text), value_of).met is met


def test_a_verdict_says_by_how_much_and_over_how_many_runs() -> None:
    assert str(judge(parse_expectation("m(a) > m(b)"), value_of)) == "met: m(a) > m(b): 0.1 [0.1, 0.1], over 5 pairs"
    lost = str(judge(parse_expectation("m(a) > m(lost)"), value_of))
    assert lost.startswith("not met: m(a) > m(lost): ")
    assert lost.endswith("seed 1 of lost: no finite value")
    apart = str(judge(parse_expectation("m(a) > m(lr=0.1, x<2)"), value_of))
    assert "over 5 and 5 runs without common seeds" in apart


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m(a)", "has 0 comparisons, wants one"),
        ("m(a) > m(b) > 1", "has 2 comparisons, wants one"),
        ("> m(b)", "a side is empty"),
        ("m(a) >", "a side is empty"),
        ("m(a) = m(b)", "= wants a margin above 0"),
        ("m(a) > m(b) +- 1", "only = has one"),
        ("m(a) = m(b) +- wide", "'wide' is no number"),
        ("1 > 2", "names no metric"),
        ("m(a) > m b", "'m' is no number and no METRIC(SETTING)"),
        ("m(a) > m(b) m(a)", "'m(a)' is not understood"),
        ("m(a@last) > 1", "'last' is no number"),
        ("m(a) > nan", "'nan' is no number"),
    ],
)
def test_what_is_no_expectation_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ParamError) as caught:
        parse_expectation(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert text in str(caught.value)


def test_three_settings_without_common_seeds_are_refused() -> None:
    with pytest.raises(ParamError, match="three settings or more need two seeds in common"):
        judge(parse_expectation("m(a) + m(b) > m(lr=0.1, x<2)"), value_of)


def test_a_metric_is_named_whole_or_by_its_first_and_last_part() -> None:
    names = ["eval/score/reward", "eval/score/pass_at_1", "eval/stage0/return", "eval/stage1/return", "stage0/reward"]
    assert the_metric("stage0/reward", names) == "stage0/reward"
    assert the_metric("eval/reward", names) == "eval/score/reward"
    with pytest.raises(ParamError, match="may be eval/stage0/return or eval/stage1/return; write one of them"):
        the_metric("eval/return", names)
    with pytest.raises(ParamError, match=r"no run reports this metric \(did you mean 'stage0/reward'\?\)"):
        the_metric("stage0/rewards", names)
