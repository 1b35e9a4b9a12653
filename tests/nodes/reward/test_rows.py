import numpy as np
import pytest

from genrl_graph.errors import RewardFailed
from genrl_graph.nodes.reward.rows import MAX_RECORDED, call_each, judgeable, score_rows
from genrl_graph.nodes.reward.worker import Failure
from genrl_graph.resources import Log


def test_failed_rows_are_left_alone(make_rollouts, log: Log) -> None:  # type: ignore[no-untyped-def]
    rows = make_rollouts(["a", "b", "c"], finish=["stop", "failed", "length"])
    assert judgeable(rows) == [0, 2]
    scored = score_rows(rows, {0: {"t": 1.0}, 2: {"t": 0.0}}, weights={"t": 0.5}, node="n", log=log)
    assert np.array_equal(scored.numpy("reward"), [0.5, np.nan, 0.0], equal_nan=True)
    assert log.metrics == {"unjudged": 0.0, "reward_t": 0.5}
    assert log.facts == {}


def test_what_could_not_be_judged_is_recorded(make_rollouts, log: Log) -> None:  # type: ignore[no-untyped-def]
    rows = make_rollouts(["x"] * 100)
    verdicts = {at: Failure(f"reason {at}") for at in range(98)} | {98: {"t": np.nan}, 99: {"t": 1.0}}
    score_rows(rows, verdicts, weights={"t": 1.0}, node="n", log=log)
    assert log.metrics["unjudged"] == 0.99
    assert log.facts["failures"][0] == {"id": "id0", "reason": "reason 0"}
    assert len(log.facts["failures"]) == MAX_RECORDED


def test_nothing_judged_is_an_error(make_rollouts, log: Log) -> None:  # type: ignore[no-untyped-def]
    rows = make_rollouts(["x", "y"])
    with pytest.raises(RewardFailed, match="judge: none of 2 rows could be judged; the first: why"):
        score_rows(rows, {0: Failure("why"), 1: Failure("so")}, weights={"t": 1.0}, node="judge", log=log)
    assert len(log.facts["failures"]) == 2
    failed = make_rollouts(["x"], finish="failed")
    assert np.isnan(score_rows(failed, {}, weights={"t": 1.0}, node="judge", log=log).numpy("reward")).all()
    assert len(score_rows(rows.where([False, False]), {}, weights={"t": 1.0}, node="judge", log=log)) == 0


@pytest.mark.parametrize("timeout_s", [None, 20.0])
def test_a_raising_call_costs_no_other(timeout_s: float | None) -> None:
    calls = {3: {"completion": "a", "pattern": "a", "answer": None}, 1: {"completion": "a"}}
    values = call_each("genrl_graph.nodes.reward.regex:found", calls, timeout_s=timeout_s, node="n")
    failure = values[1]
    assert values[3] is True and isinstance(failure, Failure) and failure.reason.startswith("TypeError")


def test_a_worker_that_cannot_start_names_the_node() -> None:
    with pytest.raises(RewardFailed, match=r"judge: .*no_such_module"):
        call_each("no_such_module:f", {0: {}}, timeout_s=5.0, node="judge")
