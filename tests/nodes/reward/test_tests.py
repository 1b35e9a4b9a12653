"""`reward.tests` on whole rows and in a game."""

import json
from pathlib import Path

import numpy as np
import pytest
from fixture_types import MakeRollouts

from genrl_graph import load, open_run, play
from genrl_graph.contract.node import Place
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import RewardFailed
from genrl_graph.nodes.reward.code_tests import results
from genrl_graph.nodes.reward.code_tests.results import Results
from genrl_graph.nodes.reward.code_tests.run_tests import Ends
from genrl_graph.nodes.reward.tests import TestsReward
from genrl_graph.nodes.source.data.code_task import CodeTask
from genrl_graph.nodes.source.list import ListSource

pytestmark = pytest.mark.usefixtures("contained")

SQUARE = {"question": "Square.", "metadata": {"tests": [f"assert f({n}) == {n * n}" for n in (0, 1, 3)]}}
PROMPT = 'def f(x):\n    """Square."""\n'
LISTED = [
    SQUARE,
    {"question": "Poem?"},
    {"question": "?", "metadata": {"tests": ["assert f(1) == 1"] * 10_000}},
    {"question": "Go on.", "metadata": {"tests": ["assert f(3) == 9"], "prompt": PROMPT, "entry_point": "f"}},
]


@pytest.fixture
def tasks() -> TaskBook:
    return TaskBook({"tasks": ListSource(tasks=LISTED).placed(Place("tasks"))})


def test_each_test_pays_and_the_rule_of_the_first_that_does_not_pass_is_recorded(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log
) -> None:
    completions = ["So:\n```python\ndef f(x):\n    return x * x\n```\nDone.", "def f(x): return x", "no", "def f(x"]
    rows = make_rollouts(completions, task_id="tasks/0", finish_reason=["stop", "stop", "failed", "length"])
    scored = TestsReward(correct=2.0).run(rows, tasks=tasks, log=log)
    assert np.allclose(scored.numpy("reward"), [3.0, 2 / 3, np.nan, 0.0], equal_nan=True)
    assert scored.values("reward_correct")[:2] == [1.0, 0.0]
    assert log.tables["tests"] == {
        "id": ["id0", "id1", "id3"],
        "passed": [3, 2, 0],
        "total": [3, 3, 3],
        "rule": ["passed", "wrong", "syntax"],
    }
    assert log.metrics == {"tests/passed": 1.0, "tests/syntax": 1.0, "tests/wrong": 1.0}


def test_code_goes_on_with_the_prompt_or_defines_it_anew(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log
) -> None:
    rows = make_rollouts(["    return x * x", "```\ndef f(x):\n    return x**2", "return x"], task_id="tasks/3")
    assert TestsReward().run(rows, tasks=tasks, log=log).values("reward") == [1.0, 1.0, 0.0]


def test_tasks_without_tests_or_with_too_many_stay_unjudged(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log
) -> None:
    rows = make_rollouts(["def f(x): return x"] * 3, task_id=["tasks/0", "tasks/1", "tasks/2"])
    scored = TestsReward().run(rows, tasks=tasks, log=log)
    assert np.isnan(scored.numpy("reward")).tolist() == [False, True, True]
    first, second = log.tables["failures"]["reason"]
    assert first.startswith("task 'tasks/1': has no list of tests, but None; a test is code")
    assert second == "task 'tasks/2' has 10000 tests (max_tests is 256)"
    with pytest.raises(RewardFailed, match="none of 2 rows"):
        TestsReward().run(rows.take([1, 2]), tasks=tasks, log=log)


def test_a_program_runs_once_for_its_tests_and_limits(
    make_rollouts: MakeRollouts, tasks: TaskBook, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", Results(most=2))
    ran: list[str] = []

    def counted(program: str, task: CodeTask, *rest: object) -> Ends:
        ran.append(program)
        return (("wall" if "sleep" in program else "passed", ""),) * len(task.tests)

    monkeypatch.setattr(results, "run_program", counted)
    reward = TestsReward()
    rows = make_rollouts(["a", "a", "b", "sleep"], task_id="tasks/0")
    for _ in range(2):
        reward.run(rows, tasks=tasks, log=log)
    assert sorted(ran) == ["a", "b", "sleep", "sleep"]  # what ended at the clock is run again
    TestsReward(test_s=1.0).run(rows.take([0]), tasks=tasks, log=log)
    reward.run(make_rollouts(["a"], task_id="tasks/3"), tasks=tasks, log=log)
    assert len(ran) == 6
    reward.run(rows.take([2]), tasks=tasks, log=log)
    assert len(ran) == 7  # only two are kept


GAME = """
graph: code
version: 1
carry: {policy: {type: policy.tiny_lm, params: {alphabet: "+*x0123456789 ", max_context: 256}, next: update}}
nodes:
  tasks: {type: source.code, params: {path: tasks.jsonl, num_tasks: 2, holdout: 0.5}}
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: "{{ task.metadata.shown_tests | length }}", max_new_tokens: 2, num_generations: 4}
  score: {type: reward.tests, inputs: {rollouts: answer}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}}
run: {rounds: 1, mode: train_and_evaluate, eval_samples: 4, eval_temperature: 1.0}
"""


def test_a_game_is_paid_by_tests_and_evaluated_by_pass_at_k(tmp_path: Path) -> None:
    rows = [{"question": f"? {n}", "tests": [{"input": str(n), "output": ""}]} for n in range(12)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "game.yaml").write_text(GAME)
    play(load(tmp_path / "game.yaml"), out=tmp_path / "run")
    run = open_run(tmp_path / "run")
    table = run.table("score/tests")
    assert table.num_rows == 8 and set(table["rule"].to_pylist()) <= {"passed", "syntax", "raised", "no_code"}
    assert {"passed"} < set(table["rule"].to_pylist())  # a number is a program that prints nothing
    measured = set(run.evaluations().column_names)
    assert {"eval/score/pass_at_1", "eval/score/pass_at_4", "eval/score/tests/passed"} <= measured
    assert "score/tests/passed" in run.metrics().column_names
