"""Numbers are numbers: YAML's booleans, and numbers by base or colon, are never taken for one."""

from pathlib import Path

import pytest

import genrl_graph
from genrl_graph.errors import GraphError, ParamError
from genrl_graph.nodes.library import Answer, Grpo, Mix

GAME = """\
graph: game
version: 1
carry:
  policy: {type: policy.tiny_lm, next: update}
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a?, answer: %s, metadata: {code: 0123}}]}}
  answer: {type: generate.answer, inputs: {tasks: tasks, policy: policy}, params: {num_generations: %s}}
  score: {type: reward.math, inputs: {rollouts: answer}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}, params: {learning_rate: %s}}
run: {rounds: %s}
"""


def load(tmp_path: Path, *, answer: str = "x", generations: str = "2", rate: str = "1e-3", rounds: str = "1"):  # type: ignore[no-untyped-def]
    (tmp_path / "game.yaml").write_text(GAME % (answer, generations, rate, rounds))
    return genrl_graph.load(tmp_path / "game.yaml")


@pytest.mark.parametrize(("where", "line"), [("generations", 7), ("rate", 10), ("rounds", 11)])
@pytest.mark.parametrize(
    ("written", "message"),
    [
        *((word, "wants a number, not true or false") for word in ("no", "on", "off", "Yes", "true")),
        *((text, "wants a number in decimal digits") for text in ("0123", "0x1F", "12:30", "0b11", "'007'", "1__0")),
    ],
)
def test_what_is_no_decimal_number_is_refused(
    tmp_path: Path, where: str, line: int, written: str, message: str
) -> None:
    with pytest.raises(GraphError, match=rf"game.yaml:{line}:\d+ .*{message}.*, got"):
        load(tmp_path, **{where: written})


def test_decimal_numbers_stay_numbers(tmp_path: Path) -> None:
    graph = load(tmp_path, generations="1_0", rate="1e-6", rounds="0")
    assert graph.nodes["answer"].declared.num_generations == 10
    assert graph.nodes["update"].declared.learning_rate == 1e-6
    assert load(tmp_path, rate="'0.5'").nodes["update"].declared.learning_rate == 0.5


@pytest.mark.parametrize("written", ["12:30", "007", "0x1F", "0b101", "0123", "1:30.5", "42", "-7"])
def test_an_answer_is_the_text_that_was_written(tmp_path: Path, written: str) -> None:
    (task,) = load(tmp_path, answer=written).nodes["tasks"].declared.tasks
    assert (task.answer, task.metadata) == (written, {"code": "0123"})


@pytest.mark.parametrize("written", ["3.10", "6.02e23", "yes", "off", "12345678901234567890.5"])
def test_an_answer_that_yaml_changes_is_refused_unless_quoted(tmp_path: Path, written: str) -> None:
    with pytest.raises(GraphError, match=r"game.yaml:6:\d+ nodes.tasks.params.tasks.0.answer: .*put it in quotes"):
        load(tmp_path, answer=written)
    assert load(tmp_path, answer=f"'{written}'").nodes["tasks"].declared.tasks[0].answer == written


def test_a_number_where_text_is_wanted_is_told_to_be_quoted(tmp_path: Path) -> None:
    load(tmp_path)
    with pytest.raises(GraphError, match=r"nodes.answer.params.template: .*got 5; put it in quotes"):
        genrl_graph.load(tmp_path / "game.yaml", ["nodes.answer.params.template=5"])
    with pytest.raises(GraphError, match=r"run.mode: .*got False; put it in quotes"):
        (tmp_path / "game.yaml").write_text((tmp_path / "game.yaml").read_text().replace("rounds: 1", "mode: off"))
        genrl_graph.load(tmp_path / "game.yaml")


def test_python_and_nested_models_follow_the_same_rule() -> None:
    with pytest.raises(ParamError, match=r"generate.answer.temperature: wants a number, not true or false"):
        Answer(temperature=False)
    with pytest.raises(ParamError, match=r"learning_rate: wants a number in decimal digits.*got '010'"):
        Grpo(learning_rate="010")
    members = {"a": {"type": "source.list", "params": {"tasks": [{"question": "a"}]}, "weight": True}}
    with pytest.raises(ParamError, match=r"members.a.weight: wants a number"):
        Mix(members=members, num_tasks=1)
