"""`reward.choice`: parsing of choices, and their rewards."""

import numpy as np
import pytest
from fixture_types import MakeRollouts

from genrl_graph import Log, Rollouts
from genrl_graph.contract.node import Place
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import RewardFailed
from genrl_graph.nodes.reward.choice import ChoiceReward, read_choice
from genrl_graph.nodes.source.list import ListSource


@pytest.fixture
def tasks() -> TaskBook:
    listed = [{"question": "6 * 7?", "answer": 42}]
    return TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))})


@pytest.fixture
def answers(make_rollouts: MakeRollouts) -> Rollouts:
    completions = ["#### 41", r"\boxed{\frac{84}{2}}", "#### 7", "#### 42"]
    return make_rollouts(completions, id=["a", "b", "c", "d"], peer=list("pqrs")).marked(PEER)


@pytest.mark.parametrize(
    ("critique", "number"),
    [
        ("Choice: Student #2", 2),
        ("I waver. Choice: Student #1. No:\n**Choice:** student #3", 3),
        ("choice: none", 0),
        ("Choice: Nonesuch", None),
        ("Choice: Student two", None),
        ("Choice: Student #0", None),
        ("Student #2 is best", None),
        ("Choice: Student #" + "9" * 30, 999_999_999),
        ("", None),
    ],
)
def test_well_formed_choices(critique: str, number: int | None) -> None:
    choice = read_choice(critique)
    assert (None if choice is None else choice.number) == number


def test_the_student_is_judged_here_by_the_order_of_parent_ids(
    make_rollouts: MakeRollouts, answers: Rollouts, tasks: TaskBook, log: Log
) -> None:
    critiques = [
        "Choice: Student #1",
        "Choice: Student #2",
        "Choice: Student #3",
        "Choice: Student #4",
        "Choice: none",
        "Hm",
    ]
    rows = make_rollouts(critiques, parent_ids=[["c", "b", "a"]] * 6, finish_reason=["stop"] * 5 + ["length"])
    scored = ChoiceReward().run(rows, answers, tasks=tasks, log=log)
    assert scored.values("reward_format") == [1, 1, 1, 1, 1, 0]
    assert scored.values("reward_exists") == [1, 1, 1, 0, 0, 0]
    assert scored.values("reward_correct") == [0, 1, 0, 0, 0, 0]
    assert scored.values("reward") == [1.0, 2.0, 1.0, 0.5, 0.5, 0.0]


def test_none_is_right_if_nobody_was(make_rollouts: MakeRollouts, answers: Rollouts, tasks: TaskBook, log: Log) -> None:
    rows = make_rollouts(["Choice: none"] * 3, parent_ids=[["a", "c"], ["a", "b"], []])
    scored = ChoiceReward().run(rows, answers, tasks=tasks, log=log)
    assert scored.values("reward_correct") == [1.0, 0.0, 1.0]


def test_exactly(make_rollouts: MakeRollouts, answers: Rollouts, tasks: TaskBook, log: Log) -> None:
    rows = make_rollouts(["Choice: Student #1", "Choice: Student #2"], parent_ids=[["b", "d"]] * 2)
    scored = ChoiceReward(judge="exact").run(rows, answers, tasks=tasks, log=log)
    assert scored.values("reward_correct") == [0.0, 1.0]


def test_an_answer_that_is_not_there_cannot_be_judged(
    make_rollouts: MakeRollouts, answers: Rollouts, tasks: TaskBook, log: Log
) -> None:
    rows = make_rollouts(["Choice: Student #1", "Choice: Student #2", "Choice: none"], parent_ids=[["x", "b"]] * 3)
    scored = ChoiceReward().run(rows, answers, tasks=tasks, log=log)
    assert np.array_equal(scored.numpy("reward"), [np.nan, 2.0, 0.5], equal_nan=True)
    reason = "the quoted answer 'x' is not among the answers"
    assert log.tables["failures"] == {"id": ["id0"], "reason": [reason]}
    with pytest.raises(RewardFailed, match="not among the answers"):
        ChoiceReward().run(rows.take([0]), answers, tasks=tasks, log=log)


def test_patterns_without_end_cost_one_row_each(
    make_rollouts: MakeRollouts, answers: Rollouts, tasks: TaskBook, log: Log
) -> None:
    rows = make_rollouts(["1" * 40 + "x", "1", "2", "no"], parent_ids=[["b", "d"]] * 4)
    node = ChoiceReward(judge="exact", choice_pattern=r"^((?:1+)+|2)$", timeout_s=0.5)
    scored = node.run(rows, answers, tasks=tasks, log=log)
    assert np.array_equal(scored.numpy("reward_correct"), [np.nan, 0.0, 1.0, 0.0], equal_nan=True)
    assert log.tables["failures"] == {"id": ["id0"], "reason": ["no answer within 0.5 s"]}
    endless = make_rollouts(["a" * 40 + "b", "is 42"], id=["b", "d"]).marked(PEER)
    node = ChoiceReward(judge="exact", answer_pattern=r"^(?:a+)+$|(\d+)", timeout_s=0.5, choice_pattern=r"^(\d)$")
    scored = node.run(rows.take([1, 2]), endless, tasks=tasks, log=log)
    assert np.array_equal(scored.numpy("reward_correct"), [np.nan, 1.0], equal_nan=True)
