"""`advantage.pool`: one baseline over several inputs."""

from typing import Literal

import numpy as np
import pytest
from fixture_types import MakeRollouts
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph import Rollouts
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.rollouts import score
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.advantage.pool import PoolAdvantage

FIRST = {"node": "answer", "peer": ["p", "p", "q", "q"], "task_id": ["t/0", "t/1", "t/0", "t/1"]}
LAST = {"node": "final", "stage": 2, "peer": ["p", "q"], "task_id": "t/0"}


@pytest.fixture
def stages(make_rollouts: MakeRollouts) -> list[Rollouts]:
    """Return first answers of two peers to two tasks, and last answers of both to the first task."""
    first = score(make_rollouts(["x"] * 4, **FIRST), {"t": [0.0, 4.0, 1.0, 2.0], "style": [0.0] * 4})
    last = score(make_rollouts(["y"] * 2, id=["f0", "f1"], **LAST), {"t": [3.0, np.nan]})
    return [first, last]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("task", [0 - 4 / 3, 4 - 3, 1 - 4 / 3, 2 - 3, 3 - 4 / 3]),
        ("task_and_peer", [0 - 1.5, 0, 0, 0, 3 - 1.5]),
        ("peer", [0 - 7 / 3, 4 - 7 / 3, 1 - 1.5, 2 - 1.5, 3 - 7 / 3]),
        ("batch", [-2, 2, -1, 0, 1]),
    ],
)
def test_one_baseline_over_what_is_wired(stages: list[Rollouts], scope: str, expected: list[float], log: Log) -> None:
    rows = PoolAdvantage(scope=scope, scale="none").run(stages, log=log)
    assert rows.values("id") == ["id0", "id1", "id2", "id3", "f0", "f1"]
    np.testing.assert_allclose(rows.numpy("advantage"), [*expected, np.nan], atol=1e-12)
    assert log.metrics["reward"] == 2.0


def test_terms_that_only_some_rows_have_are_dropped_and_marks_that_only_some_have_too(
    stages: list[Rollouts], log: Log
) -> None:
    rows = PoolAdvantage().run([stages[0].marked(PEER), stages[1]], log=log)
    assert "reward_t" in rows.table.column_names
    assert "reward_style" not in rows.table.column_names
    assert PEER not in rows.marks
    assert PEER in PoolAdvantage().run([rows.marked(PEER) for rows in stages], log=log).marks


class Graded(Rollouts):
    """A rollout type of another game."""

    columns = {**Rollouts.columns, "grade": Rollouts.columns["sample"]}
    __slots__ = ()


def test_rows_of_a_narrower_type_pool_as_what_they_have_in_common(stages: list[Rollouts], log: Log) -> None:
    table = stages[1].table.append_column("grade", stages[1].table.column("sample"))
    narrower = Graded(table, marks=stages[1].marks)
    for several in ([narrower, stages[0]], [stages[0], narrower]):
        assert type(PoolAdvantage().run(several, log=log)) is Rollouts
    assert type(PoolAdvantage().run([narrower], log=log)) is Graded


rewards = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, float("nan")]), min_size=1, max_size=8)


@given(rewards, st.sampled_from(["group", "batch", "none"]), st.booleans(), st.integers(0, 8))
def test_one_input_of_one_node_is_advantage_group_however_it_is_cut(
    make_rollouts: MakeRollouts,
    rewards: list[float],
    scale: Literal["group", "batch", "none"],
    leave_one_out: bool,
    cut: int,
) -> None:
    rows = score(make_rollouts(["x"] * len(rewards)), {"t": rewards})
    expected = GroupAdvantage(scope="task", scale=scale, leave_one_out=leave_one_out).run(rows, log=Log())
    node = PoolAdvantage(scale=scale, leave_one_out=leave_one_out)
    places = np.arange(len(rows))
    parts = [rows.where(places < cut), rows.where(places >= cut)]
    np.testing.assert_array_equal(node.run(parts, log=Log()).numpy("advantage"), expected.numpy("advantage"))
