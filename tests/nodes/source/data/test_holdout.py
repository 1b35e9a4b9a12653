"""The hold-out rule against the published SplitMix64."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.nodes.source.data.holdout import held_out, held_out_names


def splitmix64(state: int) -> int:
    """Compute the published C code with Python integers."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@given(st.integers(0, 2**62), st.floats(0, 1))
def test_the_rule_is_splitmix64(number: int, share: float) -> None:
    assert splitmix64(1234567) == 6457827717110365317
    (held,) = held_out(np.array([number]), share)
    assert held == ((splitmix64(number) >> 11) / 2**53 < share)


def test_a_share_is_a_share_and_a_larger_one_holds_out_more() -> None:
    rows = np.arange(100_000)
    tenth, fifth = held_out(rows, 0.1), held_out(rows, 0.2)
    assert abs(tenth.mean() - 0.1) < 0.005 and abs(fifth.mean() - 0.2) < 0.005
    assert not (tenth & ~fifth).any()
    assert not held_out(rows, 0.0).any() and held_out(rows, 1.0).all()


def test_names_are_held_out_alike() -> None:
    names = [f"{n}.png" for n in range(5000)]
    held = held_out_names(names, 0.3)
    assert abs(held.mean() - 0.3) < 0.03
    assert (held_out_names(names[::-1], 0.3) == held[::-1]).all()
