"""Failure budgets: failed rows and retried steps are counted separately, each with a limit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toys import Draw, Numbers, ToyPolicy, ToyPolicyCarry

from genrl_graph import Graph, Log, R, Reward, RunConfig, Scored, Select, Update, play, score
from genrl_graph.errors import DataError, NodeFailed
from genrl_graph.runners.loop.budget import Budget
from genrl_graph.store.run_store import RunStore

TRIES: dict[str, int] = {}


class Flaky(Select, name="flaky"):
    """Raises a network, disk or other error `times` times in every round."""

    times: int = 1
    how: str = "connection"
    label: str = "x"

    def run(self, rows: R, *, rng: np.random.Generator, round: int, log: Log) -> R:
        key = f"{self.label}-{round}"
        TRIES[key] = TRIES.get(key, 0) + 1
        log.metric("drawn", float(rng.integers(1000)))
        if TRIES[key] <= self.times:
            if self.how == "data":
                raise DataError("hub is down") from TimeoutError("no answer")
            errors = {
                "connection": ConnectionError("no route"),
                "bug": KeyError("k"),
                "row": DataError("row 3 is empty"),
            }
            raise errors.get(self.how) or FileNotFoundError("no such file")
        return rows


class Picky(Reward, name="picky"):
    """Cannot judge the first rows."""

    unjudged: int = 1

    def run(self, rollouts: R) -> Scored[R]:
        values = np.ones(len(rollouts))
        values[: self.unjudged] = np.nan
        return score(rollouts, {"x": values})


class FlakyUpdate(Update, name="flaky"):
    """Raises a network error in an update, which is never retried."""

    def run(self, policy: ToyPolicy) -> ToyPolicy:
        TRIES["update"] = TRIES.get("update", 0) + 1
        raise ConnectionError("no route")


def flaky_game(**options: object) -> Graph:
    graph = Graph("flaky", run=RunConfig(rounds=2, retry_wait_s=0, **options))
    policy = graph.carry("policy", ToyPolicyCarry(bias=1))
    graph.add("answer", Draw(), tasks=graph.add("tasks", Numbers()), policy=policy)
    return graph


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("how", ["connection", "data"])
def test_a_retried_step_has_the_same_random_stream_and_is_recorded(how: str, tmp_path: Path) -> None:
    graph = flaky_game()
    graph.add("once", Flaky(label=f"{how}-a", how=how, times=1), rows=graph.output("answer"))
    graph.add("never", Flaky(label=f"{how}-b", times=0), rows=graph.output("answer"))
    run = play(graph, out=tmp_path / "run", quiet=True)
    with RunStore.open(run.folder) as store:
        facts = [json.loads(step["facts"]) for step in store.steps().to_pylist() if step["node"] == "once"]
    assert [len(fact["retried"]) for fact in facts] == [1, 1]
    assert "nodes.once (round 0, peer0000)" in facts[0]["retried"][0]
    lines = metrics(run.folder)
    assert [line["budget/retries"] for line in lines] == [1.0, 2.0]
    assert all(line["budget/failed_rows"] == 0 for line in lines)
    again = flaky_game()
    again.add("once", Flaky(label=f"{how}-c", times=0), rows=again.output("answer"))
    steady = metrics(play(again, out=tmp_path / "steady", quiet=True).folder)
    assert [line["once/drawn"] for line in lines] == [line["once/drawn"] for line in steady]


def test_retries_have_a_limit_and_then_the_error_is_raised(tmp_path: Path) -> None:
    graph = flaky_game(max_retries=3)
    graph.add("down", Flaky(label="down", how="data", times=100), rows=graph.output("answer"))
    with pytest.raises(DataError, match=r"nodes\.down \(round 0, peer0000\): hub is down"):
        play(graph, out=tmp_path / "run", quiet=True)
    assert TRIES["down-0"] == 4


@pytest.mark.parametrize("what", ["bug", "row", "missing", "update"])
def test_bugs_permanent_errors_and_updates_are_never_retried(what: str, tmp_path: Path) -> None:
    graph = flaky_game(max_retries=3)
    if what == "update":
        graph.next_round(policy=graph.add("broken", FlakyUpdate(), policy=graph.output("policy")))
    else:
        graph.add("broken", Flaky(label=what, how=what, times=100), rows=graph.output("answer"))
    with pytest.raises((NodeFailed, DataError), match=r"nodes\.broken \(round 0, peer0000\)"):
        play(graph, out=tmp_path / "run", quiet=True)
    assert TRIES["update" if what == "update" else f"{what}-0"] == 1


def test_every_retry_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = flaky_game(max_retries=2)
    graph.add("down", Flaky(label="told", times=1), rows=graph.output("answer"))
    play(graph, out=tmp_path / "run")
    shown = " ".join(capsys.readouterr().err.split())
    assert "nodes.down (round 0, peer0000): ConnectionError: no route" in shown
    assert "again in 0 s (1 more retries in this run)" in shown


def test_unjudged_rows_are_counted_and_limited_after_they_were_stored(tmp_path: Path) -> None:
    def game(limit: int | None) -> Graph:
        graph = flaky_game(max_failed_rows=limit)
        graph.add("best", Flaky(times=0), rows=graph.add("score", Picky(unjudged=2), rollouts=graph.output("answer")))
        return graph

    run = play(game(4), out=tmp_path / "enough", quiet=True)
    assert [line["budget/failed_rows"] for line in metrics(run.folder)] == [2.0, 4.0]
    with pytest.raises(NodeFailed, match=r"score \(round 1, peer0000\): 4 rows .* run\.max_failed_rows is 3"):
        play(game(3), out=tmp_path / "spent", quiet=True)
    with RunStore.open(tmp_path / "spent") as store:
        assert store.table("score").num_rows == 8


@pytest.mark.parametrize(("attempts", "waits"), [(3, [0.5, 1.0, 2.0]), (9, [0.5, 1, 2, 4, 8, 16, 32, 60, 60])])
def test_waits_grow_up_to_a_minute(attempts: int, waits: list[float]) -> None:
    slept: list[float] = []
    sleep: Callable[[float], None] = slept.append
    budget = Budget(max_retries=attempts, wait_s=0.5, sleep=sleep)
    tried = [budget.retry(Flaky(), ConnectionError(), attempt=at) for at in range(attempts + 1)]
    assert tried == [True] * attempts + [False]
    assert slept == waits
