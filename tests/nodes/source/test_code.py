"""`source.code`: the shapes of rows, what a question shows, and errors."""

import json
from pathlib import Path
from typing import Any

import pytest

from genrl_graph.contract.node import Place
from genrl_graph.errors import DataError
from genrl_graph.nodes.reward.code_tests.programs import program_of
from genrl_graph.nodes.reward.code_tests.run_tests import run_tests
from genrl_graph.nodes.sandbox.limits import SandboxLimits
from genrl_graph.nodes.source.code import CodeSource
from genrl_graph.nodes.source.data.code_task import CodeTask
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.seeds import stream

HUMAN_EVAL = {
    "prompt": 'import math\n\ndef half(x):\n    return x / 2\n\ndef root(x):\n    """Return the root of x."""\n',
    "canonical_solution": "    return math.sqrt(x)\n",
    "entry_point": "root",
    "test": "def check(candidate):\n    assert True\n    for n in range(3):\n        assert candidate(n * n) == n\n"
    "    assert half(candidate(16)) == 2\n    assert candidate(4) == 2\n",
}
MBPP = {
    "text": "Write a function to add two numbers.",
    "code": "def sum(a, b):\n    return a + b",
    "test_list": ["assert sum(1, 2) == THREE", "assert sum(5, 5) == 10"],
    "test_setup_code": "THREE = 3",
}
APPS = {
    "question": "Read two lines of numbers, print their sum.",
    "input_output": json.dumps({"inputs": ["1\n2\n", ["3", "4"]], "outputs": ["3\n", "7"]}),
    "solution": "print(int(input()) + int(input()))",
    "difficulty": "easy",
}
PLAIN = {"prompt": "Write f.", "tests": [{"input": "", "output": "1"}], "reference": "print(1)", "difficulty": 3}
SHAPES: dict[str, dict[str, Any]] = {"HumanEval": HUMAN_EVAL, "MBPP": MBPP, "input_output": APPS, "tests": PLAIN}


def source(folder: Path, *rows: dict[str, Any], **params: Any) -> CodeSource:
    path = folder / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CodeSource(path=str(path), num_tasks=1, **params).placed(Place("tasks"))


@pytest.mark.usefixtures("contained")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_of_every_shape_passes_its_tests(shape: str, tmp_path: Path) -> None:
    tasks = source(tmp_path, SHAPES[shape])
    tasks.prepare()
    row = tasks.run(rng=stream("s"), round=0).rows()[0]
    task = tasks.resolve("tasks/0")
    code = task.raw
    assert isinstance(code, CodeTask) and row["answer"] == task.answer == code.reference != ""
    ended = run_tests(program_of(code.reference, code), code, SandboxLimits(wall_s=60), 30.0)
    assert ended == ("passed",) * len(code.tests)


def test_what_a_question_shows(tmp_path: Path) -> None:
    tasks = source(tmp_path, HUMAN_EVAL, MBPP, APPS)
    complete, add, read = (tasks.resolve(f"tasks/{at}") for at in range(3))
    assert complete.question.endswith('"""Return the root of x."""\n```') and "check" not in complete.question
    assert complete.metadata["prompt"] == HUMAN_EVAL["prompt"] and complete.metadata["entry_point"] == "root"
    assert "assert sum(1, 2) == THREE" in add.question and "sum(5, 5)" not in add.question
    assert add.metadata["shown_tests"] == MBPP["test_list"][:1] and add.metadata["entry_point"] == "sum"
    assert read.question == APPS["question"]
    hidden = source(tmp_path, MBPP, shown_tests=0).resolve("tasks/0")
    assert hidden.question == MBPP["text"]


def test_each_assertion_of_a_check_is_a_test(tmp_path: Path) -> None:
    code = source(tmp_path, HUMAN_EVAL).resolve("tasks/0").raw
    assert isinstance(code, CodeTask)
    assert [test.code.count("assert") for test in code.tests] == [2, 2]  # one, and that in the loop before it
    loop = {**HUMAN_EVAL, "test": "def check(f):\n    for n in range(9):\n        assert f(n * n) == n"}
    odd = {**HUMAN_EVAL, "test": "def check(f"}
    for row in (loop, odd):
        (test,) = source(tmp_path, row).resolve("tasks/0").raw.tests  # type: ignore[attr-defined]
        assert test.code.startswith(row["test"])


def test_tasks_have_a_kind_and_some_are_held_out(tmp_path: Path) -> None:
    rows = [{**PLAIN, "difficulty": level} for level in ("easy", "hard") for _ in range(10)]
    tasks = source(tmp_path, *rows, kind_column="difficulty", holdout=0.5)
    assert {tasks.resolve(f"tasks/{at}").kind for at in range(20)} == {"easy", "hard"}
    with pytest.raises(DataError, match=r"row 0: no column 'dificulty' \(did you mean 'difficulty'\?\)"):
        source(tmp_path, PLAIN, kind_column="dificulty").prepare()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": None}, "tasks.jsonl:1: row 0: has the columns of no known shape: HumanEval (prompt, test, entry"),
        ({"tests": []}, "row 0: has no list of tests, but []; a test is code"),
        (
            {"tests": ["assert f()", {"input": "", "output": ""}]},
            "row 0: mixes tests that are code with tests",
        ),
        ({"tests": [{"stdin": "1"}]}, "row 0: test 0 is {'stdin': '1'}; a test is code"),
        ({"tests": [""]}, "row 0: test 0 is ''; a test is code"),
        ({"prompt": " "}, "row 0: none of the columns question, text, prompt"),
        ({"prompt": ["x"]}, "row 0: column 'prompt' holds ['x']: a list, not text"),
        ({"tests": None, "input_output": '{"inputs": ["1"]}'}, "column 'input_output' is {'inputs': ['1']}; write"),
    ],
)
def test_rows_that_are_no_task_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        source(tmp_path, {**PLAIN, **change}).prepare()
    assert message in str(error.value)


def test_a_dry_run_of_a_hub_name_needs_no_hub() -> None:
    stand_in = CodeSource(path="google-research-datasets/mbpp", num_tasks=3, eval_split="test").dry()
    assert isinstance(stand_in, ListSource) and len(stand_in.tasks) == 3 and len(stand_in.eval_tasks) == 3
