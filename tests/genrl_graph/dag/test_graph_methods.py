"""`Graph.check`, `plan` and `draw` do in Python what the commands do; one output in a list may stand alone."""

from pathlib import Path

import pytest
from toys import toy_game

import genrl_graph
from genrl_graph import Graph, GraphError, ParamError
from genrl_graph.cli import run_command
from genrl_graph.dag.fingerprint import full_fingerprint, protocol_fingerprint
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.nodes.library import Answer, GroupAdvantage, Grpo, ListSource, RegexReward, TinyLM


def test_a_graph_checks_plans_and_draws_itself(
    tmp_path: Path, toys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    game = toy_game()
    (tmp_path / "game.yaml").write_text(game.dump())
    file = [str(tmp_path / "game.yaml"), "--import", str(toys_file)]
    assert game.check() == []
    assert run_command(["plan", *file]) == 0
    assert capsys.readouterr().out == game.plan()
    for ending in ("svg", "txt", "pdf"):
        game.draw(tmp_path / f"one.{ending}", params=True)
        assert run_command(["draw", *file, "--params", "-o", str(tmp_path / f"two.{ending}")]) == 0
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
    with pytest.raises(
        ParamError, match=r"x\.bmp: the ending '\.bmp' stands for no format; use \.txt.*html?$"
    ) as caught:
        game.draw(tmp_path / "x.bmp")
    assert "-o " not in str(caught.value) and "--format" not in str(caught.value)


def test_an_unfinished_graph_is_checked_and_drawn(tmp_path: Path) -> None:
    empty = Graph("empty")
    assert empty.check() == ["nodes: the graph has no nodes; add at least one"]
    empty.draw(tmp_path / "empty.svg")
    assert "the graph has no nodes" in (tmp_path / "empty.svg").read_text()
    with pytest.raises(GraphError, match="the graph has no nodes"):
        empty.plan()


@pytest.mark.parametrize("written", ["credited: credit", "credited: [credit]", "credited: \n        - credit"])
def test_one_output_of_a_list_is_one_graph_however_it_is_written(written: str) -> None:
    one = Graph("one")
    policy = one.carry("policy", TinyLM(alphabet="ab"))
    tasks = one.add("tasks", ListSource(tasks=[{"question": "a", "answer": "b"}]))
    answer = one.add("answer", Answer(num_generations=2), tasks=tasks, policy=policy)
    score = one.add("score", RegexReward(pattern="b"), rollouts=answer)
    credit = one.add("credit", GroupAdvantage(), scored=score)
    one.next_round(policy=one.add("update", Grpo(), policy=policy, credited=credit))
    text = one.dump()
    assert "credited: [credit]" in text
    other = read_document(parse_document(text.replace("credited: [credit]", written), file="game.yaml"))
    assert not other.problems and other.graph == one
    assert protocol_fingerprint(other.graph) == protocol_fingerprint(one)
    assert full_fingerprint(other.graph) == full_fingerprint(one)
    assert other.graph.dump() == text


def test_an_instance_is_wanted_where_a_class_is_given() -> None:
    g = Graph("classes")
    for add in (lambda: g.add("tasks", ListSource), lambda: g.carry("policy", TinyLM)):  # type: ignore[arg-type]
        with pytest.raises(GraphError, match=r"is a class; make an instance of it: (ListSource|TinyLM)\(...\)"):
            add()
    with pytest.raises(GraphError, match=r"nodes\.x: wants a node, got 3"):
        g.add("x", 3)  # type: ignore[arg-type]


def test_a_game_evaluates_from_python_as_from_the_command_line(tmp_path: Path) -> None:
    game = Graph("game")
    policy = game.carry("policy", TinyLM(alphabet="ab", hidden_size=16, layers=1, heads=2))
    asked = [{"question": "a", "answer": "b"}]
    tasks = game.add("tasks", ListSource(tasks=asked, eval_tasks=asked))
    answer = game.add("answer", Answer(num_generations=2, max_new_tokens=1), tasks=tasks, policy=policy)
    score = game.add("score", RegexReward(pattern="b"), rollouts=answer)
    credit = game.add("credit", GroupAdvantage(), scored=score)
    game.next_round(policy=game.add("update", Grpo(), policy=policy, credited=[credit]))
    run = genrl_graph.play(
        game, out=tmp_path / "run", rounds=2, mode="train_and_evaluate", eval_every=1, checkpoint_every=1, quiet=True
    )
    stored = genrl_graph.open_run(run.folder)
    assert set(stored.evaluations().column("round").to_pylist()) == {0, 1, 2}
    rows = stored.frame("answer", 1)
    table = rows.to_pandas()
    assert list(table.columns) == rows.table.column_names and len(table) == len(rows)
    assert table["id"].tolist() == rows.values("id")
    for ask in (
        lambda: stored.frame("answer", 7),
        lambda: stored.facts("answer", 7),
        lambda: stored.failures("answer", 7),
    ):
        with pytest.raises(ParamError, match="no round 7; it has the rounds 0 to 2"):
            ask()
    assert len(stored.frame("answer", range(1, 100))) == len(rows)
