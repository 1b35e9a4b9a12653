"""A renamed input still loads under its old name, with one line that names the new one."""

from pathlib import Path

import pytest

from genrl_graph import Graph, load
from genrl_graph.cli import run_command
from genrl_graph.errors import GraphError
from genrl_graph.nodes.library import Answer, GroupAdvantage, Grpo, ListSource, RegexReward, TinyLM

GRAPHS = Path(__file__).parents[3] / "graphs"
NEW, OLD = "credited: [credit]", "scored: [credit]"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return the tiny game with the input names of version 0.1."""
    text = (GRAPHS / "tiny.yaml").read_text()
    assert NEW in text
    path = tmp_path / "old.yaml"
    path.write_text(text.replace(NEW, OLD).replace("path: data/", f"path: {GRAPHS}/data/"))
    return path


def test_a_file_with_the_old_name_is_the_same_game_and_one_line_says_the_new_name(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(FutureWarning, match="'scored' is called 'credited' now"):
        graph = load(old)
    assert graph == load(GRAPHS / "tiny.yaml")
    assert "credited: [credit]" in graph.dump() and OLD not in graph.dump()
    assert run_command(["check", str(old)]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    line = next(at for at, text in enumerate(old.read_text().splitlines(), start=1) if OLD in text)
    assert note.startswith(f"genrl-graph: {old}:{line}:")
    assert note.endswith("nodes.update.scored: 'scored' is called 'credited' now, and the old name will stop "
                         "loading; write 'credited'")  # fmt: skip


def test_both_names_at_once_are_a_problem(old: Path) -> None:
    old.write_text(old.read_text().replace(OLD, f"{OLD}, {NEW}"))
    with pytest.raises(GraphError, match=r"nodes.update.scored: is the old name of 'credited', which is given"):
        load(old)


def test_the_builder_takes_the_old_name_and_warns() -> None:
    def game(name: str) -> Graph:
        g = Graph("g")
        policy = g.carry("policy", TinyLM(alphabet="ab?"))
        tasks = g.add("tasks", ListSource(tasks=[{"question": "a?", "answer": "b"}]))
        answer = g.add("answer", Answer(num_generations=2, max_new_tokens=1), tasks=tasks, policy=policy)
        score = g.add("score", RegexReward(pattern="b"), rollouts=answer)
        credit = g.add("credit", GroupAdvantage(), scored=score)
        g.next_round(policy=g.add("update", Grpo(), policy=policy, **{name: [credit]}))
        return g

    with pytest.warns(FutureWarning, match=r"nodes.update.scored: 'scored' is called 'credited' now"):
        old = game("scored")
    assert old == game("credited")


def test_the_graph_of_a_run_is_read_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str], old: Path) -> None:
    small = ["run.rounds=1", "nodes.answer.params.num_generations=2", "nodes.tasks.params.num_tasks=1"]
    assert run_command(["run", str(old), "-q", "-o", str(tmp_path / "run"), *small]) == 0
    text = (tmp_path / "run/graph.yaml").read_text()
    (tmp_path / "run/graph.yaml").write_text(text.replace(NEW, OLD))
    capsys.readouterr()
    assert run_command(["resume", str(tmp_path / "run"), "-q", "run.rounds=2"]) == 0
    assert capsys.readouterr().err == ""
