"""`reward.regex`: matches, comparison with the answer, and time limits."""

from typing import Any

import numpy as np
import pytest
from fixture_types import MakeRollouts
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.contract.node import Place
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ParamError
from genrl_graph.nodes.reward.regex import RegexReward, matches
from genrl_graph.nodes.reward.scoring.rows import call_together
from genrl_graph.nodes.source.list import ListSource


@pytest.fixture
def tasks() -> TaskBook:
    listed = [{"question": "capital of France?", "answer": "Paris"}, {"question": "poem?"}]
    return TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))})


DEEP = {
    "groups": "(" * 5000 + ")" * 5000,
    "choices": "(?:a|" * 3000 + ")" * 3000,
    "conditions": "(?=" * 4000 + ")" * 4000,
    "repetitions": "a{99999999999999999999}",
    "no end": "(",
}


@pytest.mark.parametrize("name", DEEP)
def test_a_pattern_that_python_cannot_compile_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ParamError, match="no regular expression") as error:
        RegexReward(pattern=DEEP[name])
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_match_pays(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log) -> None:
    rows = make_rollouts(["<b>x</b>", "x", "<b>"], finish_reason=["stop", "stop", "failed"])
    scored = RegexReward(pattern="<b>", match=2.0, miss=-1.0, weight=0.5, term="bold").run(rows, tasks=tasks, log=log)
    assert np.array_equal(scored.numpy("reward"), [1.0, -0.5, np.nan], equal_nan=True)
    assert scored.values("reward_bold")[:2] == [2.0, -1.0]


def test_compare_takes_group_1_of_the_last_match(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log) -> None:
    completions = ["A: Lyon A: Paris ", "A: Paris A: Lyon", "Paris", "A: Parisian", "A: x"]
    rows = make_rollouts(completions, task_id=["tasks/0"] * 4 + ["tasks/1"])
    scored = RegexReward(pattern=r"A: (\w+)", compare=True).run(rows, tasks=tasks, log=log)
    assert np.array_equal(scored.numpy("reward"), [1.0, 0.0, 0.0, 0.0, np.nan], equal_nan=True)
    assert log.tables["failures"] == {"id": ["id4"], "reason": ["task 'tasks/1' has no reference answer"]}


def test_a_pattern_without_end_costs_one_row(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log) -> None:
    rows = make_rollouts(["a" * 40 + "b", "aaa", "b"])
    assert RegexReward(pattern="a").timeout_s is not None, "a limit is kept unless it is switched off"
    scored = RegexReward(pattern="^(a+)+$", timeout_s=0.5).run(rows, tasks=tasks, log=log)
    assert np.array_equal(scored.numpy("reward"), [np.nan, 1.0, 0.0], equal_nan=True)
    assert log.tables["failures"] == {"id": ["id0"], "reason": ["no answer within 0.5 s"]}


@given(st.lists(st.tuples(st.text("ab12 ", max_size=6), st.sampled_from(["1", "a", ""])), max_size=8))
def test_a_worker_finds_what_this_process_finds(rows: list[tuple[str, str]]) -> None:
    calls: list[dict[str, Any]] = [
        {"completion": text, "pattern": r"([a1])\b", "answer": answer or None} for text, answer in rows
    ]
    target = "genrl_graph.nodes.reward.regex:match_each"
    here, there = (call_together(target, dict(enumerate(calls)), timeout_s=limit, node="n") for limit in (None, 20.0))
    assert here == there == {at: matches(**call) for at, call in enumerate(calls)}


def test_patterns_are_checked_first() -> None:
    for params, message in (
        ({"pattern": "["}, "no regular expression"),
        ({"pattern": "a", "compare": True}, "put .* around the answer"),
        ({"pattern": "a", "term": "a b"}, "letters, digits"),
    ):
        with pytest.raises(ParamError, match=message):
            RegexReward(**params)
