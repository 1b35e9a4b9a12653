"""`coordinate.report`, `vote` and `round`: whole numbers by a declared rule, winners, and the root of the rows."""

from typing import Any

import numpy as np
import pytest
from fixture_types import MakeRollouts

from genrl_graph import Rollouts
from genrl_graph.contract.node import Place
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import score
from genrl_graph.nodes.coordinate.report import Report
from genrl_graph.nodes.coordinate.round import Round
from genrl_graph.nodes.coordinate.vote import Vote
from genrl_graph.records import merkle


def scored(make_rollouts: MakeRollouts, rewards: list[float], **columns: Any) -> Rollouts:
    return score(make_rollouts(["x"] * len(rewards), **columns), {"t": rewards})


def reported(log: Log, call: str = "reward") -> dict[int, int]:
    return {each["stage"]: each["reward"] for each in log.submissions if each["call"] == call}


def test_the_own_rewards_of_all_stages_are_one_sum(make_rollouts: MakeRollouts, log: Log) -> None:
    rows = scored(make_rollouts, [0.1, 0.2, 4.0, np.nan], stage=[0, 0, 1, 1], peer=["me", "me", "me", "me"])
    others = scored(make_rollouts, [9.0], peer="you")
    Report(scale=10).run([rows, others], round=3, peer="me", log=log)
    assert reported(log) == {0: 43}
    assert [each["round"] for each in log.submissions] == [3, 3]


def test_or_each_stage_by_itself(make_rollouts: MakeRollouts, log: Log) -> None:
    rows = scored(make_rollouts, [1.0, 2.0, -5.0], stage=[0, 0, 2])
    report = Report(stages="each", reduce="mean", scale=2).placed(Place("report", stage=2))
    report.run([rows], round=0, peer="peer0000", log=log)
    assert reported(log) == {0: 3, 2: -10}
    assert report.stages_needed == 3
    assert Report().placed(Place("report", stage=2)).stages_needed == 1


@pytest.mark.parametrize(("rounding", "expected"), [("nearest", -2), ("down", -3), ("up", -2)])
def test_rounding_is_exact_and_declared(rounding: Any, expected: int, make_rollouts: MakeRollouts, log: Log) -> None:
    Report(scale=1, rounding=rounding).run([scored(make_rollouts, [-2.5])], round=0, peer="peer0000", log=log)
    assert reported(log) == {0: expected}


def test_the_root_is_that_of_the_canonical_rows_in_order(make_rollouts: MakeRollouts, log: Log) -> None:
    rows = scored(make_rollouts, [1.0, np.nan, 0.5])
    Report().run([rows], round=0, peer="peer0000", log=log)
    leaves = [merkle.leaf(row) for row in merkle.canonical_rows(rows)]
    assert log.submissions[-1] == {"call": "root", "round": 0, "root": merkle.root(leaves).hex(), "rows": 3}
    assert log.tables["leaves"]["leaf"] == [value.hex() for value in leaves]
    assert b'"completion":"x"' in merkle.canonical_rows(rows)[0]
    assert b'"reward":"nan"' in merkle.canonical_rows(rows)[1]


def test_a_report_without_audit_has_no_root(make_rollouts: MakeRollouts, log: Log) -> None:
    Report(audit=False).run([scored(make_rollouts, [1.0])], round=0, peer="peer0000", log=log)
    assert [each["call"] for each in log.submissions] == ["reward"]


def named(rows: Rollouts, **params: Any) -> list[str]:
    log = Log()
    Vote(**params).run([rows], round=0, peer="me", log=log)
    return log.submissions[0]["winners"] if log.submissions else []


def test_winners_are_the_peers_with_the_best_score(make_rollouts: MakeRollouts) -> None:
    peer = ["me", "ann", "ann", "bob", "eve", "me"]
    rows = scored(make_rollouts, [1.0, 0.5, 0.9, 0.8, np.nan, 0.0], peer=peer)
    assert named(rows) == ["bob"]
    assert named(rows, by="sum") == ["ann"]
    assert named(rows, winners=2) == ["ann", "bob"]
    assert named(rows, by="sum", winners=9, include_self=False) == ["ann", "bob"]
    assert named(rows, at_least=0.85) == []


def test_ties_are_named_together_or_the_first_by_name(make_rollouts: MakeRollouts) -> None:
    rows = scored(make_rollouts, [1.0, 1.0, 0.0], peer=["bob", "ann", "eve"])
    assert named(rows) == ["ann", "bob"]
    assert named(rows, ties="first") == ["ann"]


def test_only_a_leader_begins_rounds(log: Log) -> None:
    Round().run(round=4, log=log)
    assert log.submissions == []
    Round(advance=True).run(round=4, log=log)
    assert log.submissions == [{"call": "advance", "round": 5}]
