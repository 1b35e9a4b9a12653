"""`select.continue_if`: bounds, texts, rows that were not judged, and params and columns that cannot decide."""

from typing import Any

import numpy as np
import pytest
from fixture_types import MakeRollouts

from genrl_graph import Log, Rollouts, score
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.errors import ColumnError, ParamError
from genrl_graph.nodes.select.continue_if import ContinueIf


@pytest.fixture
def rows(make_rollouts: MakeRollouts) -> Rollouts:
    """Four rows with the rewards 0, 1, 2 and none."""
    ends = ["stop", "length", "stop", "length"]
    return score(make_rollouts(["x"] * 4, finish_reason=ends), {"t": [0.0, 1.0, 2.0, np.nan]})


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({"at_least": 1.0}, ["id1", "id2"]),
        ({"at_most": 1.0}, ["id0", "id1"]),
        ({"at_least": 0.5, "at_most": 1.5, "column": "reward_t"}, ["id1"]),
        ({"column": "finish_reason", "one_of": ("length", "failed")}, ["id1", "id3"]),
        ({"column": "sample", "at_least": 3}, ["id3"]),
        ({"at_least": 9}, []),
    ],
)
def test_rows_that_fit_the_rule_go_on_in_their_order(rows: Rollouts, params: dict[str, Any], ids: list[str]) -> None:
    log = Log()
    going = ContinueIf(**params).run(rows.marked(PEER), log=log)
    assert going.values("id") == ids and PEER in going.marks
    assert log.metrics == {"kept": len(ids) / 4}
    assert len(ContinueIf(**params).run(rows.take([]), log=Log())) == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "no rule is set, so every row would go on; set at_least"),
        ({"at_least": 1.0, "one_of": ("a",)}, "both bounds and one_of are set"),
        ({"at_least": 1.0, "at_most": 0.0}, "at_least is 1 and at_most 0, so no row ever goes on"),
    ],
)
def test_a_rule_that_decides_nothing_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        ContinueIf(**params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"column": "advantage", "at_least": 0}, "no column 'advantage'; there are id,"),
        ({"column": "completion", "at_least": 0}, "column 'completion' does not hold numbers for at_least"),
        ({"column": "prompt_ids", "at_least": 0}, "column 'prompt_ids' does not hold numbers"),
        ({"column": "parent_ids", "one_of": ("a",)}, "column 'parent_ids' does not hold texts for one_of"),
        ({"one_of": ("a",)}, "column 'reward' does not hold texts"),
    ],
)
def test_a_column_that_cannot_decide_is_named(rows: Rollouts, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ColumnError, match=message):
        ContinueIf(**params).run(rows, log=Log())
