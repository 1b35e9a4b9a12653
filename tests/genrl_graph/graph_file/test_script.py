"""Graphs that Python scripts build, as every command reads them."""

import re
from pathlib import Path

import pytest

from genrl_graph import GraphError, load, open_run
from genrl_graph.cli import run_command

GAME = """
from genrl_graph import Graph, RunConfig
from genrl_graph.nodes.library import Answer, GroupAdvantage, Grpo, ListSource, RegexReward, TinyLM


def build() -> Graph:
    g = Graph("scripted", run=RunConfig(rounds=1))
    policy = g.carry("policy", TinyLM(alphabet="ab?", hidden_size=16, layers=1, heads=2))
    tasks = g.add("tasks", ListSource(tasks=[{"question": "a?", "answer": "b"}]))
    answer = g.add("answer", Answer(num_generations=2, max_new_tokens=1), tasks=tasks, policy=policy)
    score = g.add("score", RegexReward(pattern="b"), rollouts=answer)
    credit = g.add("credit", GroupAdvantage(), scored=score)
    g.next_round(policy=g.add("update", Grpo(), policy=policy, credited=credit))
    return g
"""


@pytest.fixture
def script(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A script with a function that builds a graph, under a module name of its own."""
    path = tmp_path / f"{re.sub(r'[^a-z]+', '_', request.node.name)}.py"
    path.write_text(GAME)
    return path


def test_the_commands_take_a_script_in_place_of_a_file(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["check", str(script)]) == 0
    assert run_command(["plan", str(script), "run.rounds=3"]) == 0
    assert "3 rounds" in capsys.readouterr().out
    assert run_command(["check", str(script), "nodes.score.params.patern=x"]) == 2
    assert "unknown param 'patern' (did you mean 'pattern'?)" in capsys.readouterr().out
    (tmp_path / "same.yaml").write_text(load(script).dump())
    assert run_command(["diff", str(script), str(tmp_path / "same.yaml")]) == 0


def test_a_run_of_a_script_resumes_with_it(script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    assert run_command(["run", str(script), "-o", folder, "-q"]) == 0
    assert open_run(folder).versions["imports"].keys() == {str(script)}
    assert run_command(["resume", folder, "run.rounds=2", "-q"]) == 2
    assert f"was given --import {script}; give it again" in capsys.readouterr().err
    assert run_command(["resume", folder, "run.rounds=2", "-q", "--import", str(script)]) == 0
    assert open_run(folder).rounds == [0, 1]


def test_a_script_whose_graph_names_no_rounds_is_told_how_many_are_played(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script.read_text()
    script.write_text(text.replace(", run=RunConfig(rounds=1)", ""))
    assert run_command(["run", str(script), "-o", str(tmp_path / "ten"), "run.rounds=1"]) == 0
    assert "its graph names no rounds" not in capsys.readouterr().err
    script.write_text(text.replace("rounds=1", "seed=1"))
    assert run_command(["run", str(script), "-o", str(tmp_path / "default")]) == 0
    assert f"{script}: its graph names no rounds, so that 10 rounds are played; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("\n\ndef other() -> Graph:\n    return Graph('other')\n", r"builds 2 graphs \(scripted, other\)"),
        ("\ndel build\n", "builds no graph; leave one"),
        ("\nraise RuntimeError('no idea')\n", "RuntimeError: no idea"),
    ],
    ids=["two", "none", "broken"],
)
def test_a_script_without_one_graph_is_told_so(script: Path, more: str, message: str) -> None:
    script.write_text(GAME + more)
    with pytest.raises(GraphError, match=message):
        load(script)


def test_a_graph_at_the_top_goes_before_functions(script: Path) -> None:
    script.write_text(GAME + "\n\ndef other() -> Graph:\n    return Graph('other')\n\n\ng = build()\n")
    assert load(script).name == "scripted"
