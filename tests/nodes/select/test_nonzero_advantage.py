"""`select.nonzero_advantage` by group and by row."""

from typing import Any

import numpy as np
from fixture_types import MakeRollouts

from genrl_graph import Rollouts
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.rollouts import credit, score
from genrl_graph.nodes.select.nonzero_advantage import NonzeroAdvantage


def credited(make_rollouts: MakeRollouts, advantage: list[float], **columns: Any) -> Rollouts:
    rows = make_rollouts(["x"] * len(advantage), **columns)
    return credit(score(rows, {"t": np.zeros(len(rows))}), advantage)


def test_keeps_whole_groups_that_teach(make_rollouts: MakeRollouts, log: Log) -> None:
    groups = ["a", "b", "a", "b", "a", "c"]
    rows = credited(make_rollouts, [1.0, 0.0, 0.0, 0.0, np.nan, np.inf], group_id=groups)
    selected = NonzeroAdvantage().run(rows, log=log)
    assert selected.values("id") == ["id0", "id2"]
    assert log.metrics == {"kept": 2 / 6}
    assert NonzeroAdvantage(by="row").run(rows, log=log).values("id") == ["id0"]


def test_a_peer_cannot_slip_a_row_into_another_s_group(make_rollouts: MakeRollouts, log: Log) -> None:
    rows = credited(make_rollouts, [0.0, 1.0], peer=["a", "b"])
    assert NonzeroAdvantage().run(rows, log=log).values("id") == ["id1"]


def test_marks_stay_and_no_rows_are_fine(make_rollouts: MakeRollouts, log: Log) -> None:
    rows = credited(make_rollouts, [0.5]).marked(PEER)
    assert NonzeroAdvantage().run(rows, log=log) == rows
    assert len(NonzeroAdvantage().run(rows.where([False]), log=log)) == 0
