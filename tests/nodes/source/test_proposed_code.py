"""`source.proposed_code` and `reward.proposal`: tasks that policies propose, and what they are paid."""

from typing import Any

import pytest
from fixture_types import MakeRollouts

from genrl_graph import score
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Place
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.reward.proposal import ProposalReward
from genrl_graph.nodes.reward.tests import TestsReward
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.source.proposed_code import ProposedCode
from genrl_graph.nodes.update.level import Level

pytestmark = pytest.mark.usefixtures("contained")

TIGHT = SandboxLimits(cpu_s=1, wall_s=60, memory_mb=128, output_kb=16)


def proposal(statement: str = "Write f, which squares.", code: str = "return x * x", tests: str = "") -> str:
    tests = tests or "assert f(3) == 9\nassert f(-2) == 4"
    return f"{statement}\n```python\ndef f(x):\n    {code}\n```\nTests:\n```python\n{tests}\n```\n"


DROPPED = {
    "too_long": proposal("Square. " * 600),
    "unreadable": "Write f.\n```python\ndef f(x): return x * x\n```",
    "too_many_tests": proposal(tests="assert f(1) == 1\n" * 10_000)[:3900] + "\n```",
    "leaks": proposal("Write f. It is: return x*x"),
    "fails": proposal(tests="assert f(3) == 10"),
    "trivial": proposal(code="return 7", tests="assert f(3) < 100\nassert f(4) < 100"),
}
"""Proposals that are no task, by the rule that says so."""


def source(**params: Any) -> ProposedCode:
    return ProposedCode(limits=TIGHT, test_s=30.0, **params).placed(Place("tasks"))


def test_proposals_become_tasks_or_are_dropped_by_a_rule(make_rollouts: MakeRollouts, log: Log) -> None:
    tasks = source()
    rows = make_rollouts([proposal(), *DROPPED.values(), proposal()], node="propose")
    proposed = tasks.run(rows, log=log)
    assert log.tables["dropped"]["rule"] == list(DROPPED)
    assert {name: log.metrics[f"dropped/{name}"] for name in DROPPED} == dict.fromkeys(DROPPED, 1.0)
    assert (log.metrics["proposed"], log.metrics["tasks"]) == (8.0, 1.0)
    (row,) = proposed.rows()
    task = tasks.resolve(row["id"])
    assert task.messages == row["messages"] and task.answer == "def f(x):\n    return x * x"
    assert "assert f(3) == 9" in task.question and "-2" not in task.question
    # whoever made it: a task whose text is none by the own judgement is refused
    bad = row["id"].replace("squares", "squares%3A%20return%20x%20%2A%20x")
    for id in (bad, "tasks/%ff", "tasks/a b", "other/x"):
        with pytest.raises(DataError, match=r"leaks: the statement says|is no task of this source"):
            tasks.resolve(id)


HOSTILE = {
    "tests that call nothing": (proposal(tests="assert True"), "fails"),
    "tests that cannot be read": (proposal(tests="assert f("), "fails"),
    "tests that end before they test": (proposal(tests="import os; os._exit(0)\nassert f(1) == 1"), "fails"),
    "tests that loop": (proposal(tests="while f(1): pass\nassert f(1) == 1"), "fails"),
    "tests that pass anything": (proposal(tests="assert f(3) == f(3)\nassert f(4) is not f"), "trivial"),
    "tests that say that they passed": (proposal(tests="print('all passed')\nassert f(2) == 5"), "fails"),
    "a solution that loops": (proposal(code="while True: pass"), "fails"),
    "a solution that forks": (proposal(code="while True: __import__('os').fork()"), "fails"),
    "a solution that says that it passed": (proposal(code="print('all passed', flush=True)"), "fails"),
    "a solution that exits": (proposal(code="raise SystemExit(0)"), "fails"),
    "a solution that fills memory": (proposal(code="return len('x' * 10**12)"), "fails"),
    "a solution that equals all": (proposal(code="return type('A', (), {'__eq__': lambda s, o: True})()"), "fails"),
}
"""Proposals that mean harm, and the rule by which each is dropped."""


@pytest.mark.long
def test_hostile_proposals_are_dropped_by_a_rule(make_rollouts: MakeRollouts, log: Log) -> None:
    texts = [text for text, _ in HOSTILE.values()]
    assert len(source().run(make_rollouts(texts), log=log)) == 0
    rules = dict(zip(HOSTILE, log.tables["dropped"]["rule"], strict=True))
    assert rules == {name: rule for name, (_, rule) in HOSTILE.items()}


def test_a_level_bounds_the_length_of_answers(make_rollouts: MakeRollouts) -> None:
    tasks = source(inputs=["2"], prompt="x = int(input())\nprint(", suffix=")", max_answer=[3, 4])
    rows = make_rollouts(["x+1", "1+x*2", "9+x"])
    for level, most in ((0, 3), (1, 4), (7, 4)):
        log = Log()
        assert tasks.run(rows, Level(level), log=log).values("id") == ["tasks/x%2B1", "tasks/9%2Bx"]
        assert (
            log.tables["dropped"]["rule"] == ["above_level"] and f"than {most} ch" in log.tables["dropped"]["reason"][0]
        )
    assert tasks.resolve("tasks/1%2Bx%2A2").answer == "1+x*2"  # of a peer at another level


def test_a_solution_alone_makes_its_tests_from_inputs(make_rollouts: MakeRollouts, log: Log) -> None:
    params = {"inputs": ["2", "3"], "prompt": "x = int(input())\nprint(", "suffix": ")", "trivial": ["5"]}
    tasks = source(**params)
    proposed = tasks.run(make_rollouts(["x+1", "x/0", "5", "x", "1+"]), log=log)
    assert log.tables["dropped"]["rule"] == ["raised", "trivial", "trivial", "syntax"]
    assert proposed.values("id") == ["tasks/x%2B1"]
    task = tasks.resolve("tasks/x%2B1")
    assert task.metadata["shown_tests"] == [{"input": "2", "output": "3\n"}, {"input": "3", "output": "4\n"}]
    answers = make_rollouts(["1+x", "x", "3"], task_id="tasks/x%2B1")
    scored = TestsReward(limits=TIGHT).run(answers, tasks=TaskBook({"tasks": tasks}), log=log)
    assert scored.values("reward") == [1.0, 0.0, 0.5]


def test_an_evaluation_has_tasks_of_its_own(make_rollouts: MakeRollouts, log: Log) -> None:
    tasks = source(inputs=["2"], prompt="print(int(input())", suffix=")", eval_proposals=["+1", "*5"])
    held_out = tasks.evaluated(Evaluation(num_tasks=1)).run(make_rollouts(["-1"]), log=log)
    assert held_out.values("id") == ["tasks/%2B1"]
    with pytest.raises(ParamError, match="give eval_proposals"):
        source().evaluated(Evaluation())


def test_a_proposer_is_paid_for_tasks_that_are_solved_half_of_the_time(make_rollouts: MakeRollouts, log: Log) -> None:
    nan = float("nan")
    solved = {
        "half": [1.0, 0.0],
        "all": [1.0, 1.0],
        "none": [0.0, 0.0],
        "some%20more": [1.0, 0.0, 0.0, 0.0],
        "x": [nan],
    }
    ids = [f"tasks/{text}" for text, values in solved.items() for _ in values]
    answers = make_rollouts(["?"] * len(ids), task_id=ids)
    scored = score(answers, {"correct": [value for values in solved.values() for value in values]})
    proposals = make_rollouts(["half", "all", "none", "some more", "dropped", "x"])
    paid = ProposalReward(task=0.25).run(proposals, scored, log=log)
    assert paid.values("reward")[:5] == [1.25, 0.25, 0.25, 0.75, 0.0]
    assert log.tables["failures"]["reason"] == ["no solution of the task could be judged"]
    assert log.metrics["solved"] == pytest.approx((0.5 + 1 + 0 + 0.25) / 4)
