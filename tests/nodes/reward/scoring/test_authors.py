"""Rows of several authors: judged apart, within a time of their own, and without a say in the limits of this peer."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from genrl_graph import score
from genrl_graph.contract import registry
from genrl_graph.contract.node import Place, Reward
from genrl_graph.contract.resources import OVER_BUDGET, Log
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import RewardFailed
from genrl_graph.nodes.reward.choice import ChoiceReward
from genrl_graph.nodes.reward.function import FunctionReward
from genrl_graph.nodes.reward.math import MathReward
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.reward.scoring.authors import OWN_TIMES
from genrl_graph.nodes.reward.weighted_sum import WeightedSum
from genrl_graph.nodes.source.list import ListSource

AUTHORS = ["eve", "bob", "ann", "bob"]
MakeRollouts = Callable[..., Rollouts]
BACKTRACKS = "a" * 40 + "!"


@pytest.fixture
def tasks() -> TaskBook:
    return TaskBook(
        {
            "tasks": ListSource(tasks=[{"question": "6 * 7?", "answer": "42"}, {"question": "Why?"}]).placed(
                Place("tasks")
            )
        }
    )


def judged(scored: Rollouts) -> list[bool]:
    """Return whether each row has a reward."""
    return np.isfinite(scored.numpy("reward")).tolist()


def test_a_function_gets_the_rows_of_one_author_in_a_call_the_own_ones_first(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log
) -> None:
    seen = []

    def length(completions: list[str], peer: list[str], **columns: object) -> list[float]:
        seen.append(peer)
        return [float(len(text)) for text in completions]

    rows = make_rollouts(["a", "bb", "ccc", "dddd"], peer=AUTHORS)
    scored = FunctionReward(function=length, format="text").run(rows, tasks=tasks, log=log, peer="bob")
    assert seen == [["bob", "bob"], ["ann"], ["eve"]]
    assert scored.values("reward") == [1.0, 2.0, 3.0, 4.0]
    assert log.seconds.keys() == {"ann", "eve"}


def test_what_another_author_makes_a_function_raise_costs_that_author(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log
) -> None:
    def number(completions: list[str], **columns: object) -> list[float]:
        return [float(int(text)) for text in completions]

    node = FunctionReward(function=number, format="text", max_unjudged=0.0)
    rows = make_rollouts(["two", "1", "3", "1"], peer=AUTHORS)
    assert judged(node.run(rows, tasks=tasks, log=log, peer="bob")) == [False, True, True, True]
    assert log.tables["failures"]["id"] == ["id0"]
    assert log.tables["failures"]["reason"][0].startswith("ValueError: invalid literal for int()")
    with pytest.raises(RewardFailed, match=r"none of 1 rows could be judged \(max_unjudged is 0\); .*'two'"):
        node.run(rows, tasks=tasks, log=Log(), peer="eve")


def test_a_task_that_only_another_author_names_costs_that_author(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log
) -> None:
    rows = make_rollouts(["42", "42", "42", "42"], peer=AUTHORS, task_id=["tasks/77", *["tasks/0"] * 3])
    assert judged(MathReward().run(rows, tasks=tasks, log=log, peer="bob")) == [False, True, True, True]
    with pytest.raises(Exception, match="tasks/77"):
        MathReward().run(rows, tasks=tasks, log=log, peer="eve")


@pytest.mark.parametrize("timeout_s", [30.0, 0.2])
def test_the_time_of_an_author_ends_and_the_next_one_has_its_own(
    make_rollouts: MakeRollouts, tasks: TaskBook, timeout_s: float, log: Log
) -> None:
    node = RegexReward(pattern="^(a+)+$", timeout_s=timeout_s, peer_seconds=0.5)
    rows = make_rollouts(["a", *[BACKTRACKS] * 40, "b", "a"], peer=["bob", *["ann"] * 40, "bob", "eve"])
    node.run(rows.where([name == "bob" for name in rows.values("peer")]), tasks=tasks, log=Log(), peer="bob")
    started = time.monotonic()
    scored = node.run(rows, tasks=tasks, log=log, peer="bob")
    assert time.monotonic() - started < 10.0
    assert judged(scored) == [True, *[False] * 40, True, True]
    assert set(log.facts) == {OVER_BUDGET} and log.facts[OVER_BUDGET].keys() == {"ann"}
    assert log.tables["failures"]["reason"][-1] == "the time for the rows of this peer has ended (peer_seconds)"
    assert 0.3 < log.seconds["ann"] < 8.0


def test_what_lacked_time_is_cut_again_without_a_clock(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log) -> None:
    again = Log(cut={"ann": ["id2"]})
    rows = make_rollouts(["1", "2", "3", "4"], peer=AUTHORS)
    scored = RegexReward(pattern=r"\d", peer_seconds=1e-9).run(rows, tasks=tasks, log=again, peer="bob")
    assert judged(scored) == [True, True, False, True]
    assert again.facts == {OVER_BUDGET: {"ann": ["id2"]}}
    RegexReward(pattern=r"\d", peer_seconds=1e-9).run(rows, tasks=tasks, log=log, peer="bob")
    assert log.facts.get(OVER_BUDGET, {}).keys() <= {"ann", "eve"}


def test_time_grows_with_that_of_the_own_rows(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: seconds)  # a busy machine takes no time of this clock

    def slow(completions: list[str], **columns: object) -> list[float]:
        nonlocal seconds
        seconds += len(completions)
        return [1.0] * len(completions)

    node = FunctionReward(function=slow, rows_per_call=1, peer_seconds=0.001)
    rows = make_rollouts(["x"] * 101, peer=["bob", *["ann"] * 100])
    assert sum(judged(node.run(rows, tasks=tasks, log=log, peer="bob"))) == 1 + OWN_TIMES
    assert log.seconds == {"ann": OWN_TIMES}


def test_an_own_critique_is_excused_where_an_answer_of_another_author_could_not_be_judged(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log
) -> None:
    answers = make_rollouts(["42", "41"], id=["a", "b"], peer=["eve", "bob"], task_id=["tasks/1", "tasks/0"])
    rows = make_rollouts(["Choice: Student #1", "Choice: Student #2"], parent_ids=[["a", "b"]] * 2, peer="bob")
    node = ChoiceReward(max_unjudged=0.0)
    assert judged(node.run(rows, answers.marked(PEER), tasks=tasks, log=log, peer="bob")) == [False, True]
    assert log.excused == {"id0"}
    with pytest.raises(RewardFailed, match="only 1 of 2 rows"):
        own = make_rollouts(["42", "41"], id=["a", "b"], peer="bob", task_id=["tasks/1", "tasks/0"])
        node.run(rows, own.marked(PEER), tasks=tasks, log=log, peer="bob")


def test_a_sum_limits_the_own_rows_only(make_rollouts: MakeRollouts, log: Log) -> None:
    def scored(term: str, values: list[float]) -> Scored:
        rows = make_rollouts(["x"] * 4, peer=AUTHORS)
        return score(rows, {term: np.asarray(values)}, weights={term: 1.0})

    inputs = [scored("a", [1.0] * 4), scored("b", [np.nan, 1.0, np.nan, 1.0])]
    node = WeightedSum(terms={"a": 1.0, "b": 1.0}, max_unjudged=0.0)
    assert judged(node.run(inputs, round=0, log=log, peer="bob")) == [False, True, False, True]
    with pytest.raises(RewardFailed, match="1 of 1 rows have a term"):
        node.run(inputs, round=0, log=log, peer="eve")


def test_every_reward_that_judges_rows_knows_which_are_its_own() -> None:
    """A reward that does not ask for `peer` would count rows of others as own ones, and judge all in one call."""
    shipped = [
        cls
        for cls in registry.types().values()
        if issubclass(cls, Reward) and cls.__module__.startswith("genrl_graph.")
    ]
    assert len(shipped) >= 7
    assert [cls.type_name for cls in shipped if "peer" not in cls.signature.resources] == []
