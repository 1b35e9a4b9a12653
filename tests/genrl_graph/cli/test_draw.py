"""`genrl-graph draw`, notebooks, and the gallery of the shipped games."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toys import TOY_GAME, toy_game

from genrl_graph import Graph, load, play
from genrl_graph.cli import run_command
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.gallery import gallery
from genrl_graph.drawing.measured import measured
from genrl_graph.drawing.render import ENDINGS, FORMATS, draw, mermaid

GRAPHS = Path(__file__).parents[3] / "graphs"
TINY = str(GRAPHS / "tiny.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play three rounds of the toy game with two peers; return the run folder."""
    out = tmp_path_factory.mktemp("runs") / "toy"
    graph = toy_game()
    graph.run = graph.run.model_copy(update={"rounds": 3, "peers": 2})
    play(graph, out=out, quiet=True)
    return out


def written(run: Path, name: str, *, round: int | None = None) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line and (round is None or line["round"] == round)]


def mean(values: list[float]) -> float:
    assert values
    return sum(values) / len(values)


@pytest.mark.parametrize("round", [None, 1])
def test_the_numbers_of_a_run_are_means_of_its_metrics(run: Path, round: int | None) -> None:
    graph = toy_game()
    numbers = measured(run, graph.nodes, round=round).nodes
    seconds = {name: mean(written(run, f"time/{name}", round=round)) for name in graph.nodes}
    for name in graph.nodes:
        assert numbers[name].time_share == pytest.approx(seconds[name] / sum(seconds.values()))
    for name, metric in (("answer", "tokens"), ("answer", "rows"), ("score_answer", "reward"), ("answers", "refused")):
        assert getattr(numbers[name], metric) == pytest.approx(mean(written(run, f"{name}/{metric}", round=round)))
    assert numbers["tasks"].reward is None


def test_numbers_are_told_so_that_trouble_stands_out(tmp_path: Path) -> None:
    line = {
        "round": 0,
        "peer": "p",
        "time/round": 2.0,
        "time/a": 1.5,
        "time/b": 0.5,
        "a/rows": 1200.0,
        "a/refused": 3.0,
    }
    line |= {
        "a/unjudged": 0.25,
        "a/failed_rows": 2.0,
        "a/zero_variance": 0.5,
        "a/reward": float("nan"),
        "b/unjudged": 0,
    }
    evaluation = {"round": 0, "peer": "p", "eval/time": 1.0, "a/rows": 9.0}
    text = "".join(json.dumps(entry) + "\n" for entry in (line, evaluation)) + '{"round": 1, "pe'
    (tmp_path / "metrics.jsonl").write_text(text)
    numbers = measured(tmp_path, ["a", "b", "c"])
    assert numbers.title == f"{tmp_path.name}: mean of 1 round, 1 peer"
    assert numbers.nodes["a"].texts() == [
        "75% of time, 1.5 s",
        "1,200 rows",
        "zero variance 50%",
        "unjudged 25%",
        "2 failed",
        "3 refused",
    ]
    assert numbers.nodes["b"].texts() == ["25% of time, 0.5 s"]
    assert numbers.nodes["c"].texts() == []


def test_a_run_is_drawn_without_its_graph_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["draw", "--run", str(run), "--round", "2"]) == 0
    out = capsys.readouterr().out
    assert "toy: round 2, 2 peers\n" in out
    assert f"{mean(written(run, 'answer/tokens', round=2)):.0f} tokens" in out or " tokens" in out
    assert run_command(["draw", "--run", str(run), "run.peers=7"]) == 0
    assert "7 peers\ntoy: mean of 3 rounds, 2 peers\n" in capsys.readouterr().out


def test_the_ending_names_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schedule = compile_graph(load(TINY))
    for ending, format in ENDINGS.items():
        assert run_command(["draw", TINY, "-o", str(tmp_path / f"game{ending}")]) == 0
        assert (tmp_path / f"game{ending}").read_bytes() == draw(schedule, format)
    assert run_command(["draw", TINY, "-o", str(tmp_path / "README"), "--format", "mermaid"]) == 0
    assert (tmp_path / "README").read_text() == mermaid(schedule)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("format", FORMATS)
def test_without_a_file_the_picture_goes_to_stdout(format: str) -> None:
    command = [sys.executable, "-m", "genrl_graph", "draw", TINY, "--format", format, "--params"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == draw(compile_graph(load(TINY)), format, params=True)
    assert done.stderr == b""


def test_params_are_shown_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["draw", TINY, "nodes.answer.params.temperature=0.5"]) == 0
    assert "temperature" not in capsys.readouterr().out
    assert run_command(["draw", TINY, "nodes.answer.params.temperature=0.5", "--params"]) == 0
    assert "temperature: 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 3, "draw: nothing to draw; name a graph file, or a run with --run"),
        ([TINY, "--format", "sgv"], 3, "format 'sgv': no such format (did you mean 'svg'?)"),
        ([TINY, "-o", "game.bmp"], 3, "-o game.bmp: the ending '.bmp' stands for no format; use .txt"),
        ([TINY, "-o", "game"], 3, "-o game: a name without an ending stands for no format"),
        ([TINY, "-o", "none/game.svg"], 3, "-o none/game.svg: cannot write: No such file or directory"),
        ([TINY, "--round", "1"], 3, "--round 1: of which run? name it with --run"),
        (["--run", "none"], 12, "none: no run here, graph.yaml is missing: there is no such folder"),
        ([TINY, "--run", "empty"], 12, "empty/metrics.jsonl: no such file; --run wants the folder of a run"),
        ([TINY, "--run", "broken"], 12, "broken/metrics.jsonl:1: no JSON"),
        ([TINY, "--run", "begun"], 12, "begun/metrics.jsonl: no round has ended yet"),
        ([TINY, "--run", "played", "--round", "7"], 12, "played/metrics.jsonl: no round 7; the last one is 0"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(TOY_GAME.replace("tasks: tasks", "tasks: taks", 1))
    for name, text in (("broken", "{]\n"), ("begun", ""), ("played", '{"round": 0, "peer": "p", "time/round": 1}\n')):
        Path(name).mkdir()
        (Path(name) / "metrics.jsonl").write_text(text)
    Path("empty").mkdir()
    assert run_command(["draw", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"genrl-graph: {message}")
    assert len(err.splitlines()) == 1


def test_a_png_without_pillow_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert run_command(["draw", TINY, "--format", "png"]) == 3
    assert capsys.readouterr().err.startswith("genrl-graph: --format png: draws with Pillow, which is missing: pip")


def test_a_notebook_shows_the_picture() -> None:
    shown = toy_game()._repr_mimebundle_()
    assert shown["image/svg+xml"] == draw(compile_graph(toy_game()), "svg").decode() == toy_game()._repr_svg_()
    assert shown["text/plain"] == draw(compile_graph(toy_game()), "text").decode()


def test_a_notebook_shows_what_is_wrong_with_a_graph_that_cannot_be_played() -> None:
    g = Graph("empty")
    assert "the graph has no nodes; add at least one" in g._repr_svg_()
    assert "the graph has no nodes; add at least one" in g._repr_mimebundle_()["text/plain"]


def test_the_gallery_is_what_make_pictures_writes() -> None:
    page = gallery(GRAPHS)
    assert (GRAPHS / "README.md").read_text() == page, "run make pictures"
    for path in GRAPHS.rglob("*.yaml"):
        name = path.relative_to(GRAPHS).as_posix()
        command = f"`genrl-graph run {name.removesuffix('.yaml')}`"
        (row,) = [line for line in page.splitlines() if line.startswith(f"| [{name}]({name}) | ")]
        assert row.endswith(f" | {command} |")
        assert f"<summary>{name}</summary>\n\n```mermaid\n{mermaid(compile_graph(load(path)))}```\n" in page
