import pytest
from fixture_types import Resources, Written

from genrl_graph import ParamError, Tasks, TextPolicy
from genrl_graph.nodes.generate.critique import Critique


def test_student_k_is_the_kth_parent(tasks: Tasks, policy: TextPolicy, resources: Resources, written: Written) -> None:
    answers = written(
        [
            ("tasks/0", "a", "It is 4.\n#### 4"),
            ("tasks/0", "b", None),
            ("tasks/1", "b", " 15 "),
            ("tasks/0", "b", "It is 5."),
        ]
    )
    rows = Critique(max_new_tokens=3, num_generations=2).run(tasks, answers, policy, **resources())
    prompt = rows.values("messages")[0][-1]["content"]
    assert "2+2=" in prompt
    assert "Student #1:\nIt is 4.\n#### 4\n" in prompt
    assert "Student #2:\nIt is 5.\n" in prompt
    assert "Student #3" not in prompt
    assert "Choice: Student #" in prompt
    assert "Choice: none" in prompt
    assert rows.values("parent_ids")[:2] == [["tasks/0-a-0", "tasks/0-b-3"]] * 2
    assert "Student #1:\n15\n" in rows.values("messages")[2][-1]["content"]


def test_a_task_without_answers_fails_its_rows(
    tasks: Tasks, policy: TextPolicy, resources: Resources, written: Written
) -> None:
    answers = written([("tasks/1", "a", "15"), ("tasks/0", "a", None)])
    rows = Critique(max_new_tokens=3).run(tasks, answers, policy, **resources())
    assert rows.values("finish_reason")[0] == "failed"
    assert rows.values("error") == ["no answers of this task to quote", ""]


def test_answers_that_do_not_fit_are_left_out_from_the_end(
    tasks: Tasks, policy: TextPolicy, resources: Resources, written: Written
) -> None:
    answers = written([("tasks/0", peer, "word " * 60) for peer in "abcde"])
    rows = Critique(max_new_tokens=3).run(tasks, answers, policy, **resources())
    assert rows.values("parent_ids")[0] == ["tasks/0-a-0", "tasks/0-b-1"]
    assert len(rows.values("prompt_ids")[0]) <= policy.context_length - 3


def test_the_template_may_read_only_task_and_answers() -> None:
    with pytest.raises(ParamError, match="reads 'critiques'; it may read task, answers"):
        Critique(template="{{ critiques }}")
