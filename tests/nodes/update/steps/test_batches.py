"""Micro-batches by token budget, optimiser steps by whole groups."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.contract.policy import micro_batches
from genrl_graph.nodes.update.steps.batches import split_groups

LENGTHS = st.lists(st.integers(1, 300), min_size=0, max_size=60)


@given(LENGTHS, st.integers(1, 900))
def test_every_row_is_in_one_batch_and_no_batch_exceeds_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(lengths, max_batch_tokens=budget)
    assert sorted(np.concatenate([*batches, np.empty(0, np.int64)]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[at] for at in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


@given(LENGTHS.filter(bool))
def test_a_large_budget_gives_one_batch(lengths: list[int]) -> None:
    assert len(micro_batches(lengths, max_batch_tokens=len(lengths) * max(lengths))) == 1


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 9))
def test_groups_stay_whole(groups: list[str], parts: int, seed: int) -> None:
    actual = split_groups(groups, parts=parts, rng=np.random.default_rng(seed))
    assert 1 <= len(actual) <= parts
    assert sorted(np.concatenate(actual).tolist()) == list(range(len(groups)))
    owners = [{groups[at] for at in part} for part in actual]
    assert sum(map(len, owners)) == len(set(groups))


def test_one_part_keeps_the_order_and_draws_nothing() -> None:
    rng = np.random.default_rng(0)
    assert split_groups(["b", "a", "b"], parts=1, rng=rng)[0].tolist() == [0, 1, 2]
    assert rng.random() == np.random.default_rng(0).random()
