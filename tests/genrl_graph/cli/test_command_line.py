"""The command line: its output streams and exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from toys import TOY_GAME, toy_game

from genrl_graph import __version__
from genrl_graph.cli import command_line, run_command
from genrl_graph.dag.fingerprint import protocol_fingerprint
from genrl_graph.store.run_store import RunStore

TWO = """\
graph: two
version: 1
nodes:
  tasks: {type: source.toy_numbers, params: {num_tasks: none}}
  kept:
    type: select.toy_same
    inputs: {rows: taks}
"""


@pytest.fixture
def game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a working directory that holds a game."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "game.yaml").write_text(TOY_GAME)
    return tmp_path / "game.yaml"


def command(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "genrl_graph", *arguments], capture_output=True, text=True, check=False, cwd=folder
    )


def test_check_says_that_a_graph_is_right(game: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", "game.yaml"]) == 0
    protocol = protocol_fingerprint(toy_game())[:12]
    assert capsys.readouterr() == (f"game.yaml: ok (11 nodes, 1 carry, 2 stages, protocol {protocol})\n", "")


def test_check_prints_every_problem_with_its_line_and_a_caret(game: Path, capsys: pytest.CaptureFixture[str]) -> None:
    game.write_text(TWO)
    assert run_command(["check", "game.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == (
        "game.yaml:4:57 nodes.tasks.params.num_tasks: input should be a valid integer, unable to parse string as an "
        "integer, got 'none'\n"
        "  tasks: {type: source.toy_numbers, params: {num_tasks: none}}\n"
        "                                                        ^\n"
        "game.yaml:7:20 nodes.kept.rows: no node or carry named 'taks' (did you mean 'tasks'?)\n"
        "    inputs: {rows: taks}\n"
        "                   ^\n"
    )
    assert err == "game.yaml: 2 problems\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["check", "none.yaml"], 2, "none.yaml: no such file and no shipped graph of this name"),
        (["check", "../none.yaml"], 2, "../none.yaml:1:1: no such file"),
        (["check", "broken.yaml"], 2, "broken.yaml:3:1: while parsing a flow node"),
        (["check", "game.yaml", "rounds"], 3, "'rounds': an override is written key=value"),
        (
            ["check", "game.yaml", "run.rounds=1,2"],
            3,
            "a sweep over several values: `genrl-graph sweep` plays",
        ),
        (["plan", "two.yaml"], 2, "two.yaml:4:57 nodes.tasks.params.num_tasks: input should be a valid integer"),
        (["run", "two.yaml"], 2, "two.yaml:4:57 nodes.tasks.params.num_tasks"),
        (["nodes", "reward.maths"], 2, "no type named 'reward.maths'"),
        (["check", "game.yaml", "--import", "none.py"], 2, "--import none.py: No such file or directory"),
        (["check", "game.yaml", "--import", "bad.py"], 4, "--import bad.py: select.b: has no `run` method"),
        (["run", "game.yaml", "run.rounds=1", "-o", "taken", "-q"], 12, "taken: holds 'notes' but no graph.yaml"),
        (
            ["run", "fails.yaml", "-o", "new", "-q"],
            21,
            "nodes.match_final (round 1, peer0000): ValueError: no idea what",
        ),
        (["run", "game.yaml", "-o", "new", "-q", "nodes.answers.params.min_peers=3"], 11, "wants 3 peers, but 1 play"),
    ],
)
def test_errors_end_with_their_code_and_one_line(
    game: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    Path("broken.yaml").write_text("graph: x\nnodes: [\n")
    Path("two.yaml").write_text(TWO)
    Path("bad.py").write_text("from genrl_graph import Select\nclass A(Select, name='b'): pass\n")
    Path("fails.yaml").write_text(TOY_GAME.replace("reward.toy_matches", "reward.toy_broken"))
    Path("taken").mkdir()
    Path("taken/notes").touch()
    assert run_command(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert all(line.startswith("genrl-graph: ") for line in lines)
    assert message in lines[0]


@pytest.mark.parametrize(
    "arguments", [[], ["chek", "x"], ["check"], ["check", "a.yaml", "--no-such"], ["nodes", "a", "b"]]
)
def test_what_is_no_command_is_refused_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(arguments)
    assert caught.value.code == 2
    assert "usage: genrl-graph" in capsys.readouterr().err


def test_overrides_may_stand_before_and_behind_options(game: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("X = 1\n")
    assert run_command(["plan", "game.yaml", "run.rounds=3", "--import", "mine.py", "run.peers=2", "~run.seed"]) == 3
    assert "there is no 'run.seed' to delete" in capsys.readouterr().err
    assert (
        run_command(["plan", "--import", "mine.py", "game.yaml", "run.rounds=3", "--import", "mine.py", "run.peers=2"])
        == 0
    )
    assert "3 rounds, 2 peers, seed 0" in capsys.readouterr().out


def test_the_plan_is_printed(game: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", "game.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("toy: 11 nodes, 2 stages, 1 exchange, ")
    assert err == ""


def test_types_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["nodes"]) == 0
    assert "exchange.gather" in capsys.readouterr().out
    assert run_command(["nodes", "select.toy_best"]) == 0
    assert capsys.readouterr().out.startswith("select.toy_best\n\nKeeps the best half.\n")


def test_a_run_makes_its_own_folder_and_the_next_one_another(game: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert run_command(["run", "game.yaml", "run.rounds=1", "-q"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["toy-1", "toy-2"]
    assert capsys.readouterr() == ("", "")
    assert len(RunStore.open(Path("runs/toy-1")).table("answer")) == 6


def test_scripts_are_imported_and_recorded(game: Path, toys_file: Path) -> None:
    done = command(
        "run", "game.yaml", "--import", str(toys_file), "run.rounds=1", "-o", "new", "-q", folder=game.parent
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    versions = RunStore.open(game.parent / "new").versions
    assert list(versions["imports"]) == [str(toys_file)]
    assert len(versions["imports"][str(toys_file)]) == 64


def test_types_of_a_script_that_is_not_imported_are_unknown(game: Path) -> None:
    done = command("check", "game.yaml", folder=game.parent)
    assert done.returncode == 2
    assert "nodes.answer.type: no type named 'generate.toy_draw'" in done.stdout


def test_the_version_and_the_help_name_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, text in (("--version", f"genrl-graph {__version__}"), ("--help", "usage: genrl-graph")):
        with pytest.raises(SystemExit) as caught:
            run_command([argument])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert text in out
        assert argument == "--version" or all(f"\n    {name}" in out for name in ("check", "plan", "nodes", "run"))
    for name in ("check", "plan", "nodes", "run"):
        with pytest.raises(SystemExit) as caught:
            run_command([name, "--help"])
        assert caught.value.code == 0
        assert f"usage: genrl-graph {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "default"), [("run", "<run folder>/<peer name>.key"), ("swarm bootstrap", "identity.key")]
)
def test_the_help_names_the_key_file_that_the_command_uses(
    command: str, default: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_command([*command.split(), "--help"])
    assert f"it is who the peer is (default: {default})" in " ".join(capsys.readouterr().out.split())


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    process = subprocess.Popen([sys.executable, "-m", "genrl_graph", "nodes"], stdout=write_end, stderr=subprocess.PIPE)
    os.close(read_end)
    os.close(write_end)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert err == b""


def test_what_a_run_says_goes_to_stderr(game: Path) -> None:
    done = command(
        "run",
        "game.yaml",
        "--import",
        str(Path(__file__).parents[2] / "toys.py"),
        "run.rounds=2",
        "-o",
        "new",
        folder=game.parent,
    )
    assert done.returncode == 0
    assert done.stdout == ""
    assert "round 2/2" in done.stderr
    assert "peer0000 policy: weights" in done.stderr
    lines = [json.loads(line) for line in (game.parent / "new/metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1]


def test_export_writes_what_transformers_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    game = Path(__file__).parents[3] / "graphs" / "tiny.yaml"
    overrides = ["run.rounds=1", "nodes.answer.params.num_generations=2", "nodes.tasks.params.num_tasks=2"]
    assert run_command(["run", str(game), "-q", "-o", str(tmp_path / "run"), *overrides]) == 0
    assert run_command(["export", str(tmp_path / "run"), "policy", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }
    assert run_command(["export", str(tmp_path / "run"), "polcy", str(tmp_path / "other")]) == 12
    assert "no policy named 'polcy' (did you mean 'policy'?)" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_ctrl_c_while_arguments_are_parsed_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "command_parser", interrupted)
    assert run_command(["graphs"]) == 128 + signal.SIGINT
