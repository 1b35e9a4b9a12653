"""`reward.math` on whole rows."""

import numpy as np
import pytest
from fixture_types import MakeRollouts

from genrl_graph.contract.node import Place
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import DataError, ParamError, RewardFailed
from genrl_graph.nodes.reward.math import MathReward
from genrl_graph.nodes.source.list import ListSource


@pytest.fixture
def tasks() -> TaskBook:
    listed = [
        {"question": "a half?", "answer": "1/2"},
        {"question": "poem?"},
        {"question": "six times seven?", "answer": 42},
    ]
    return TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))})


def test_terms_weights_and_failed_rows(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log) -> None:
    completions = [r"So \boxed{0.5}", r"So \boxed{\frac{2}{4}}", r"\boxed{3}", "no idea", r"\boxed{0.5}"]
    rows = make_rollouts(completions, finish_reason=["stop", "stop", "length", "stop", "failed"]).marked(PEER)
    scored = MathReward(format=0.25, correct=2.0).run(rows, tasks=tasks, log=log)
    assert scored.values("reward")[:4] == [2.25, 2.25, 0.25, 0.0]
    assert np.isnan(scored.numpy("reward")[4])
    assert scored.values("reward_format")[:4] == [1.0, 1.0, 1.0, 0.0]
    assert scored.values("reward_correct")[:4] == [1.0, 1.0, 0.0, 0.0]
    assert PEER in scored.marks
    assert log.tables == {}


def test_rewards_in_a_row_keep_the_marks_and_add_up(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log) -> None:
    from genrl_graph.nodes.reward.regex import RegexReward

    rows = make_rollouts([r"\boxed{1/2}"])
    both = MathReward().run(RegexReward(pattern="box").run(rows, tasks=tasks, log=log), tasks=tasks, log=log)
    assert both.values("reward") == [2.5]


def test_a_task_without_an_answer_costs_only_its_rows(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log) -> None:
    rows = make_rollouts(["#### 42", "#### rose"], task_id=["tasks/2", "tasks/1"])
    scored = MathReward().run(rows, tasks=tasks, log=log)
    assert np.array_equal(scored.numpy("reward"), [1.5, np.nan], equal_nan=True)
    assert log.tables["failures"] == {"id": ["id1"], "reason": ["task 'tasks/1' has no reference answer"]}
    with pytest.raises(RewardFailed, match=r"reward\.math: none of 1 rows"):
        MathReward().run(rows.take([1]), tasks=tasks, log=log)


def test_a_reference_that_cannot_be_compared_with_is_named(make_rollouts: MakeRollouts, log: Log) -> None:
    slow = r"\prod_{k=1}^{800}\sum_{j=1}^{900}\frac{\sin(k j)}{\cos(k + j)}"
    answers = (slow, "9^{9^{9}}", " ")
    listed = [{"question": "How many?", "answer": answer} for answer in answers]
    tasks = TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))})
    rows = make_rollouts(["#### 5"] * 3, task_id=["tasks/0", "tasks/1", "tasks/2"])
    scored = MathReward(timeout_s=1.5, max_unjudged=1.0).run(rows, tasks=tasks, log=log)
    assert np.isnan(scored.numpy("reward")).all()
    why = "is blank, too large to compute, or takes more than 1.2 s to compare with; simplify it"
    assert log.tables["failures"]["reason"] == [
        f"task 'tasks/{at}': its reference answer {answer!r:.80} {why}" for at, answer in enumerate(answers)
    ]


def test_the_answer_comes_from_the_reader_s_own_source(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log) -> None:
    with pytest.raises(DataError, match="no source named 'theirs'"):
        MathReward().run(make_rollouts(["#### 5"], task_id="theirs/0"), tasks=tasks, log=log)


def test_a_pattern_of_one_s_own(make_rollouts: MakeRollouts, tasks: TaskBook, log: Log) -> None:
    rows = make_rollouts(["Result = 42; not 41", "#### 42"], task_id="tasks/2")
    scored = MathReward(pattern=r"Result = (\d+)").run(rows, tasks=tasks, log=log)
    assert scored.values("reward_format") == [1.0, 0.0]
    with pytest.raises(ParamError, match=r"pattern: no regular expression"):
        MathReward(pattern="(")
    with pytest.raises(ParamError, match="timeout_s"):
        MathReward(timeout_s=0)


def test_the_answer_mark_of_the_prompt_and_the_type_of_the_answer(make_rollouts, log: Log) -> None:  # type: ignore[no-untyped-def]
    listed = [{"question": "score?", "answer": "3-1"}, {"question": "size?", "answer": "1e-9"}]
    tasks = TaskBook({"tasks": ListSource(tasks=listed).placed(Place("tasks"))})
    prompts = [[{"role": "user", "content": f"End with {mark}"}] for mark in ("####", r"\boxed{}", "a line")]
    rows = make_rollouts([r"#### 3-1" + "\n" + r"not \boxed{4-2}"] * 3, messages=prompts)
    assert MathReward().run(rows, tasks=tasks, log=log).values("reward_correct") == [1.0, 0.0, 0.0]
    formula = MathReward(answer_type="formula").run(rows, tasks=tasks, log=log)
    assert formula.values("reward_correct") == [1.0, 1.0, 1.0]
    small = make_rollouts(["#### 2e-9", "#### 0.000000001"], task_id="tasks/1")
    assert MathReward().run(small, tasks=tasks, log=log).values("reward_correct") == [0.0, 1.0]
    with pytest.raises(ParamError, match="answer_type"):
        MathReward(answer_type="word")
