"""Packing: each sequence is complete, shared prefixes are stored once, and batches keep their budget."""

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.nodes.policy.compute.packing import LEAST_SHARED, Ids, Packed, packed_batches, prefix_order


@st.composite
def families(draw: st.DrawFn) -> list[Ids]:
    """Draw sequences with common prefixes: each is a prefix of one of a few long sequences, and a random end."""
    trunks = draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=60), min_size=1, max_size=3))
    sequences = []
    for _ in range(draw(st.integers(1, 12))):
        trunk = draw(st.sampled_from(trunks))
        end = draw(st.lists(st.integers(0, 3), max_size=20))
        whole = trunk[: draw(st.integers(1, len(trunk)))] + end
        sequences.append(np.asarray(whole, np.int32))
    return sequences


@given(families())
def test_each_sequence_stands_whole_at_its_path(sequences: list[Ids]) -> None:
    packed = Packed.of(sequences)
    for sequence, path in zip(sequences, packed.paths, strict=True):
        np.testing.assert_array_equal(packed.ids[path], sequence)
        np.testing.assert_array_equal(packed.positions[path], np.arange(len(sequence)))
        assert (np.diff(path) > 0).all()
    assert set(np.concatenate(packed.paths).tolist()) == set(range(len(packed.ids))), (
        "every place belongs to a sequence"
    )


@given(families())
def test_a_branch_sees_what_comes_before_it_in_its_sequences_and_nothing_else(sequences: list[Ids]) -> None:
    packed = Packed.of(sequences)
    assert [branch.start for branch in packed.branches] == [0, *(branch.stop for branch in packed.branches[:-1])]
    assert packed.branches[-1].stop == len(packed.ids)
    for branch in packed.branches:
        seen = [place for start, stop in branch.before for place in range(start, stop)]
        assert branch.seen == len(seen)
        owners = [path for path in packed.paths if branch.start in path]
        assert owners
        for path in owners:
            assert path[path < branch.start].tolist() == seen


@given(families())
def test_no_prefix_that_is_worth_a_branch_is_there_twice(sequences: list[Ids]) -> None:
    packed = Packed.of(sequences)
    for a, path in zip(sequences, packed.paths, strict=True):
        for b, other in zip(sequences, packed.paths, strict=True):
            same = int(np.cumprod(np.asarray(a[: len(b)]) == np.asarray(b[: len(a)])).sum())
            if same >= LEAST_SHARED:
                np.testing.assert_array_equal(path[:same], other[:same])


@given(families(), st.integers(1, 200))
def test_batches_hold_every_sequence_once_and_keep_the_budget(sequences: list[Ids], budget: int) -> None:
    batches = packed_batches(sequences, max_tokens=budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sequences)))
    for batch in batches:
        assert len(batch) == 1 or len(Packed.of([sequences[at] for at in batch]).ids) <= budget


@given(families(), st.integers(1, 200))
def test_no_other_way_to_cut_them_has_fewer_tokens(sequences: list[Ids], budget: int) -> None:
    sequences = sequences[:7]
    order = [row for row, _ in prefix_order(sequences)]

    def cost(cuts: Sequence[int]) -> tuple[float, int]:
        batches = [[sequences[row] for row in order[begin:end]] for begin, end in pairwise((0, *cuts, len(order)))]
        sizes = [len(Packed.of(batch).ids) for batch in batches]
        fits = all(len(batch) == 1 or size <= budget for batch, size in zip(batches, sizes, strict=True))
        return (sum(sizes) if fits else np.inf, len(batches))

    ways = [cuts for count in range(len(order)) for cuts in combinations(range(1, len(order)), count)]
    batches = packed_batches(sequences, max_tokens=budget)
    tokens = sum(len(Packed.of([sequences[at] for at in batch]).ids) for batch in batches)
    assert (tokens, len(batches)) == min(map(cost, ways))


def test_completions_of_one_prompt_cost_it_once() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.integers(100, size=200).astype(np.int32)
    rows = [np.concatenate([prompt, rng.integers(100, size=40).astype(np.int32)]) for _ in range(8)]
    packed = Packed.of(rows)
    assert 200 + 8 * 40 - 8 <= len(packed.ids) <= 200 + 8 * 40
    assert len(packed.branches) == 8
