"""Axes of a sweep in Hydra's grammar, and seeds."""

import pytest

from genrl_graph.errors import ParamError
from genrl_graph.graph_file.axes import Axis, Interval, parse_axis, parse_seeds


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("a.b=1e-3,1e-2", ("a.b=0.001", "a.b=0.01")),
        ("a=choice(x,'y z')", ("a=x", "a=y\\ z")),
        ("a=range(0,3)", ("a=0", "a=1", "a=2")),
        ("a=range(0,1,0.5)", ("a=0.0", "a=0.5")),
        ("a=[1,2],[3]", ("a=[1,2]", "a=[3]")),
        ("+a={x:1},{x:2}", ("+a={x:1}", "+a={x:2}")),
        ("a=sort(3,1,2)", ("a=1", "a=2", "a=3")),
        ("policy=small,large", ("policy=small", "policy=large")),
        ("a=null,1", ("a=null", "a=1")),
        ("a='1,2'", ("a='1,2'",)),
        ("a=[1,2]", ("a=[1,2]",)),
        ("~a.b", ("~a.b",)),
    ],
)
def test_an_axis_has_the_values_that_hydra_gives(text: str, overrides: tuple[str, ...]) -> None:
    axis = parse_axis(text)
    assert isinstance(axis, Axis)
    assert axis.overrides == overrides


def test_an_interval_is_drawn_from_evenly_or_by_its_logarithm() -> None:
    assert parse_axis("a=interval(0,1)") == Interval("a", "a", 0.0, 1.0, whole=False, log=False)
    assert parse_axis("a=tag(log,interval(1e-4,1e-2))") == Interval("a", "a", 1e-4, 1e-2, whole=False, log=True)
    assert parse_axis("a=int(interval(1,8))") == Interval("a", "a", 1, 8, whole=True, log=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=range(0,0)", "gives no value"),
        ("a=1,2,1", "gives 1 twice"),
        ("a=glob(*)", "files are not looked up in a sweep"),
        ("a=interval(2,1)", "an interval has two numbers, the lower first"),
        ("a=tag(log,interval(0,1))", "both above 0"),
        ("a=(1,2", "cannot read the value '(1,2'"),
        ("hydra.mode=1,2", "is no key of a graph"),
        ("a=range(0,20000)", "gives more than 10000 values"),
    ],
)
def test_an_axis_that_names_nothing_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ParamError) as caught:
        parse_axis(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeds_are_a_range_a_list_or_one() -> None:
    assert parse_seeds("0:5") == (0, 1, 2, 3, 4)
    assert parse_seeds("7,1,3:5") == (7, 1, 3, 4)
    assert parse_seeds("3") == (3,)


@pytest.mark.parametrize("text", ["", "a", "5:2", "1,1", "-1", "0:", ":5", "0:99999999", "1.5"])
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(ParamError, match="--seeds"):
        parse_seeds(text)
