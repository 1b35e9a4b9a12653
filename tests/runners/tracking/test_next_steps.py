"""Commands at the end of a run: they work as printed, however the program was started."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from toys import TOY_GAME, toy_game

from genrl_graph import Graph, load
from genrl_graph.runners.tracking.next_steps import next_steps

GRAPHS = Path(__file__).parents[3] / "graphs"
TOYS = Path(__file__).parents[2] / "toys.py"


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return the output of a command in a shell."""
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def printed_steps(text: str) -> dict[str, str]:
    """The commands behind the line that announces them, by what they show."""
    return dict(re.findall(r"^(\w+) +(.+)$", text.partition("what to look at next:\n")[2], re.MULTILINE))


@pytest.mark.long
@pytest.mark.parametrize("program", ["-m genrl_graph", "genrl-graph"])
def test_the_printed_commands_show_the_run_and_draw_it(tmp_path: Path, program: str) -> None:
    python, script = shlex.quote(sys.executable), Path(sys.executable).with_name("genrl-graph")
    if program == "genrl-graph" and not script.is_file():
        pytest.fail(f"{script}: not installed")
    start = f"{python} {program}" if program.startswith("-m") else shlex.quote(os.path.relpath(script, tmp_path))
    (tmp_path / "game.yaml").write_text(TOY_GAME)
    played = run(f"{start} run game.yaml --import {TOYS} run.rounds=2 -o 'runs/my game'", tmp_path)
    assert played.returncode == 0, played.stderr
    steps = printed_steps(played.stderr)
    assert list(steps) == ["rewards", "rollouts", "picture"]
    assert all(step.startswith(f"{start} ") for step in steps.values()), steps
    done = {name: run(step, tmp_path) for name, step in steps.items()}
    assert [result.returncode for result in done.values()] == [0, 0, 0], done
    assert "my game: graph toy" in done["rewards"].stdout and "2 of 2 rounds played" in done["rewards"].stdout
    assert re.search(r"^\d+ of \d+ rollouts$", done["rollouts"].stdout, re.MULTILINE)
    assert (tmp_path / "runs" / "my game.svg").read_text().startswith("<svg")


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    ["run.mode=evaluate run.eval_every=0 run.eval_tasks=2", "run.rounds=1 run.mode=train run.eval_every=0"],
)
def test_evaluations_alone_and_games_are_looked_at_by_the_same_commands(tmp_path: Path, options: str) -> None:
    played = run(f"{sys.executable} -m genrl_graph run {GRAPHS}/games/tic_tac_toe.yaml {options} -o run", tmp_path)
    steps = printed_steps(played.stderr)
    assert len(steps) == 3, played.stderr
    done = {name: run(step, tmp_path) for name, step in steps.items()}
    assert [result.returncode for result in done.values()] == [0, 0, 0], done


def test_a_graph_of_types_that_only_this_process_knows_gets_no_picture() -> None:
    def steps(folder: str, graph: Graph, *imports: str, measured: bool = True) -> dict[str, str]:
        return next_steps(Path(folder), graph, imports, measured=measured)

    shipped = load(GRAPHS / "tiny.yaml")
    assert list(steps("runs/x", toy_game())) == ["rewards", "rollouts"]
    assert list(steps("runs/x", toy_game(), "sub/toys.py")) == ["rewards", "rollouts", "picture"]
    assert steps("runs/x", shipped, "a b.py")["picture"].endswith(" draw --run runs/x --import 'a b.py' -o runs/x.svg")
    assert steps("runs/a b", shipped)["picture"].endswith(" draw --run 'runs/a b' -o 'runs/a b.svg'")
    assert steps("runs/x", shipped, measured=False)["picture"].endswith(" draw runs/x/graph.yaml -o runs/x.svg")
