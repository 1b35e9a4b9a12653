"""`select.top`: ties, thresholds, scopes and columns without an order."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fixture_types import MakeRollouts
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph import Rollouts
from genrl_graph.arrow.cast import TEXT
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import score
from genrl_graph.errors import ColumnError, ParamError
from genrl_graph.nodes.select.top import Top

REWARDS = [0.0, 2.0, 1.0, 2.0, np.nan, 3.0]


def scored(make_rollouts: MakeRollouts, rewards: list[float], **columns: Any) -> Rollouts:
    return score(make_rollouts(["x"] * len(rewards), **columns), {"t": rewards})


def test_the_best_of_each_group_in_the_order_given(make_rollouts: MakeRollouts) -> None:
    rows = scored(make_rollouts, REWARDS, group_id=["a", "a", "a", "a", "b", "b"])
    assert Top(k=1).run(rows).values("id") == ["id1", "id5"]
    assert Top(k=3).run(rows).values("id") == ["id1", "id2", "id3", "id5"]
    assert Top(k=9).run(rows).values("id") == ["id0", "id1", "id2", "id3", "id5"]


def test_per_task_and_per_peer(make_rollouts: MakeRollouts) -> None:
    task, peer = ["t/0"] * 3 + ["t/1"] * 3, ["p", "q"] * 3
    rows = scored(make_rollouts, REWARDS, task_id=task, peer=peer, group_id=list("abcdef"))
    assert Top(k=1, per="task").run(rows).values("id") == ["id1", "id5"]
    assert Top(k=1, per="peer").run(rows).values("id") == ["id2", "id5"]


def test_by_another_column_and_marks_stay(make_rollouts: MakeRollouts) -> None:
    rows = scored(make_rollouts, REWARDS).marked(PEER)
    selected = Top(k=2, column="sample").run(rows)
    assert selected.values("id") == ["id4", "id5"]
    assert selected.marks == rows.marks


def test_what_cannot_be_ordered_is_told(make_rollouts: MakeRollouts) -> None:
    rows = scored(make_rollouts, REWARDS)
    for column in ("advantage", "completion", "prompt_ids"):
        with pytest.raises(ColumnError, match=column):
            Top(k=1, column=column).run(rows)
    with pytest.raises(ParamError, match="k"):
        Top(k=0)


class Moves(Frame):
    """An edge type that this node does not know."""

    columns = {"id": pa.int64(), "group_id": TEXT, "node": TEXT, "peer": TEXT}
    __slots__ = ()


class Points(Frame):
    """An edge type without groups."""

    columns = {"id": pa.int64()}
    __slots__ = ()


def test_rows_without_groups_are_told_so() -> None:
    rows = score(Points.from_columns({"id": [1]}), {"x": [1.0]})
    with pytest.raises(ColumnError, match="'group' needs the column 'group_id'"):
        Top(k=1).run(rows)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0])), max_size=30), st.integers(1, 4))
def test_against_sorting_each_group(given: list[tuple[str, float]], k: int) -> None:
    rows = [{"id": at, "group_id": group, "node": "n", "peer": "p"} for at, (group, _) in enumerate(given)]
    selected = Top(k=k).run(score(Moves.from_rows(rows), {"x": [reward for _, reward in given]}))
    expected = []
    for group in "abc":
        members = [at for at, (name, _) in enumerate(given) if name == group]
        expected += sorted(members, key=lambda at: -given[at][1])[:k]
    assert type(selected) is Moves and selected.values("id") == sorted(expected)


def test_rejection_sampling_keeps_nothing_of_a_group_without_a_right_row(make_rollouts: MakeRollouts) -> None:
    rows = scored(make_rollouts, REWARDS, group_id=["a", "a", "b", "b", "c", "c"])
    assert Top(k=2, at_least=2.0).run(rows).values("id") == ["id1", "id3", "id5"]
    assert len(Top(k=2, at_least=4.0).run(rows)) == 0
