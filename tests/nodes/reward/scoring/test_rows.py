"""Common steps of rewards: failed rows, time limits, and the share of unjudged rows."""

import numpy as np
import pytest
from fixture_types import MakeRollouts

from genrl_graph.contract.resources import Log
from genrl_graph.errors import RewardFailed
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.reward.scoring.rows import call_each, call_together, judgeable, score_rows
from genrl_graph.nodes.worker.worker import Failure

NODE = RegexReward(pattern="x")


def test_failed_rows_are_left_alone(make_rollouts: MakeRollouts, log: Log) -> None:
    rows = make_rollouts(["a", "b", "c"], finish_reason=["stop", "failed", "length"])
    assert judgeable(rows) == [0, 2]
    scored = score_rows(rows, {0: {"t": 1.0}, 2: {"t": 0.0}}, weights={"t": 0.5}, node=NODE, log=log)
    assert np.array_equal(scored.numpy("reward"), [0.5, np.nan, 0.0], equal_nan=True)
    assert log.tables == {}


def test_what_could_not_be_judged_is_recorded(make_rollouts: MakeRollouts, log: Log) -> None:
    rows = make_rollouts(["x"] * 100)
    verdicts = {at: Failure(f"reason {at}") for at in range(98)} | {98: {"t": np.nan}, 99: {"t": 1.0}}
    scored = score_rows(rows, verdicts, weights={"t": 1.0}, node=NODE, log=log)
    assert np.isnan(scored.numpy("reward")).mean() == 0.99
    assert log.tables["failures"]["id"] == [f"id{at}" for at in range(99)]
    assert log.tables["failures"]["reason"] == [*(f"reason {at}" for at in range(98)), "could not be judged: t is nan"]


def test_a_reason_that_is_no_text_can_be_stored(make_rollouts: MakeRollouts, log: Log) -> None:
    score_rows(make_rollouts(["x", "y"]), {0: Failure("\ud800"), 1: {"t": 1.0}}, weights={"t": 1}, node=NODE, log=log)
    assert log.tables["failures"]["reason"] == ["?"]


@pytest.mark.parametrize(("limit", "passes"), [(0.0, False), (0.49, False), (0.5, True), (1.0, True)])
def test_max_unjudged_is_the_node_s_own(make_rollouts: MakeRollouts, log: Log, limit: float, passes: bool) -> None:
    node, rows = (
        RegexReward(pattern="x", max_unjudged=limit),
        make_rollouts(["x", "y", "z"], finish_reason=["stop", "stop", "failed"]),
    )
    verdicts: dict[int, Failure | dict[str, float]] = {0: Failure("why"), 1: {"t": 1.0}}
    if passes:
        assert score_rows(rows, verdicts, weights={"t": 1.0}, node=node, log=log).values("reward")[1] == 1.0
        return
    message = rf"reward\.regex: only 1 of 2 rows could be judged \(max_unjudged is {limit:g}\); the first: why"
    with pytest.raises(RewardFailed, match=message):
        score_rows(rows, verdicts, weights={"t": 1.0}, node=node, log=log)


def test_nothing_judged_is_an_error(make_rollouts: MakeRollouts, log: Log) -> None:
    rows = make_rollouts(["x", "y"])
    with pytest.raises(
        RewardFailed, match=r"reward\.regex: none of 2 rows could be judged \(.*0\.99\); the first: why"
    ):
        score_rows(rows, {0: Failure("why"), 1: Failure("so")}, weights={"t": 1.0}, node=NODE, log=log)
    failed = make_rollouts(["x"], finish_reason="failed")
    assert np.isnan(score_rows(failed, {}, weights={"t": 1.0}, node=NODE, log=log).numpy("reward")).all()
    assert len(score_rows(rows.where([False, False]), {}, weights={"t": 1.0}, node=NODE, log=log)) == 0


@pytest.mark.parametrize("timeout_s", [None, 20.0])
def test_a_raising_call_costs_no_other(timeout_s: float | None) -> None:
    calls: dict[int, dict[str, object]] = {
        3: {"completion": "a", "pattern": "a", "answer": None},
        1: {"completion": "a"},
    }
    values = call_each("genrl_graph.nodes.reward.regex:matches", calls, timeout_s=timeout_s, node="n")
    failure = values[1]
    assert values[3] is True and isinstance(failure, Failure) and failure.reason.startswith("TypeError")


@pytest.mark.parametrize("timeout_s", [None, 20.0])
def test_called_together_a_raising_row_costs_no_other(timeout_s: float | None) -> None:
    calls = {3: {"completion": "aa", "pattern": "a"}, 1: {"completion": "a"}, 2: {"completion": "b", "pattern": "a"}}
    values = call_together(
        "genrl_graph.nodes.reward.scoring.answers:extract_each", calls, timeout_s=timeout_s, node="n"
    )
    failure = values.pop(1)
    assert values == {3: "a", 2: None}
    assert isinstance(failure, Failure) and failure.reason.startswith("KeyError: 'pattern' (answers.py:")


def test_a_worker_that_cannot_start_names_the_node() -> None:
    with pytest.raises(RewardFailed, match=r"judge: .*no_such_module"):
        call_each("no_such_module:f", {0: {}}, timeout_s=5.0, node="judge")
