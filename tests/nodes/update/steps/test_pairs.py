"""Preference pairs within groups."""

import numpy as np
from fixture_types import MakeRollouts
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph import Rollouts, score
from genrl_graph.nodes.update.steps.pairs import Pairs, preference_pairs


def test_the_best_and_the_worst_of_each_group(make_rollouts: MakeRollouts) -> None:
    groups = ["a", "a", "a", "a", "b", "b", "c"]
    rows = score(make_rollouts(list("0123456"), group_id=groups), {"x": [1.0, 3.0, 0.0, 3.0, 2.0, 2.0, 1.0]})
    assert preference_pairs(rows, rule="best_worst", min_margin=0.0) == Pairs([1], [2], 2)
    assert preference_pairs(rows, rule="best_worst", min_margin=3.5) == Pairs([], [], 3)
    assert preference_pairs(rows, rule="all", min_margin=2.0) == Pairs([1, 1, 3, 3], [0, 2, 0, 2], 2)


def test_rows_of_other_prompts_nodes_and_peers_are_no_pair(make_rollouts: MakeRollouts) -> None:
    """All rows have the same `group_id`, as a hostile peer may write it."""
    for column, values in (("prompt_ids", [[1], [2]]), ("node", ["x", "y"]), ("peer", ["p", "q"])):
        rows = score(make_rollouts(["a", "b"], **{column: values}), {"x": [0.0, 1.0]})
        assert preference_pairs(rows, rule="all", min_margin=0.0) == Pairs([], [], 2)


@given(
    rewards=st.lists(st.tuples(st.sampled_from("abc"), st.floats(-2, 2)), max_size=16),
    min_margin=st.floats(0, 1),
)
def test_all_pairs_are_those_of_a_group_with_the_margin(
    make_rollouts: MakeRollouts, rewards: list[tuple[str, float]], min_margin: float
) -> None:
    groups, values = [group for group, _ in rewards], np.array([value for _, value in rewards])
    rows: Rollouts = score(make_rollouts([""] * len(rewards), group_id=groups), {"x": values})
    pairs = preference_pairs(rows, rule="all", min_margin=min_margin)
    expected = {
        (i, j)
        for i in range(len(groups))
        for j in range(len(groups))
        if groups[i] == groups[j] and values[i] > values[j] and values[i] - values[j] >= min_margin
    }
    actual = list(zip(pairs.chosen, pairs.rejected, strict=True))
    assert len(actual) == len(expected)
    assert set(actual) == expected
    assert pairs.groups_without == len(set(groups)) - len({groups[i] for i, _ in expected})
    best = preference_pairs(rows, rule="best_worst", min_margin=min_margin)
    assert set(zip(best.chosen, best.rejected, strict=True)) <= expected
    assert best.groups_without == pairs.groups_without
