"""Views of games in steps: returns and wins during the run, episodes, boards, lineage, curves."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import genrl_graph.graphs
from genrl_graph import load, play
from genrl_graph.cli import run_command
from genrl_graph.contract import registry
from genrl_graph.edge_types.boards import board
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.records.stored_run import open_run
from genrl_graph.runners.loop.evaluate import evaluation_line, evaluation_table

registry.import_file(Path(__file__).parents[2] / "corridors.py")
GAMES = Path(genrl_graph.graphs.__file__).resolve().parent / "games"
ROUNDS = 3
SMALL = [f"run.rounds={ROUNDS}", "run.trackers=[]", "run.eval_tasks=8", "nodes.tasks.params.num_episodes=12"]


@pytest.fixture(scope="module")
def played_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of tic-tac-toe with two peers, and what the run printed to stderr."""
    folder = tmp_path_factory.mktemp("steps") / "boards"
    graph = load(GAMES / "tic_tac_toe_swarm.yaml", [*SMALL, "nodes.remember.params.every=1"])
    stderr = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stderr)
        play(graph, out=folder)
    return folder, stderr.getvalue()


@pytest.fixture(scope="module")
def run(played_run: tuple[Path, str]) -> Path:
    return played_run[0]


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert run_command([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_line_of_a_round_tells_return_length_and_wins(played_run: tuple[Path, str]) -> None:
    run, stderr = played_run
    last = [line for line in metrics(run) if line["round"] == ROUNDS - 1 and "play/steps" in line]
    mean = {name: np.mean([line[f"play/{name}"] for line in last]) for name in ("return", "episode_length")}
    (line,) = [text for text in stderr.splitlines() if text.startswith(f"round {ROUNDS}/{ROUNDS}")]
    assert f"stage 0 return {mean['return']:.4g}, episode_length {mean['episode_length']:.4g}, " in line
    progress, _, _ = stderr.partition("what to look at next")  # names the commands that show rewards and rollouts
    assert "random/wins 0" in line and "steps/s" in line and "tokens" not in progress and "reward" not in progress
    assert {"stage0/return", "stage0/episode_length", "stage0/self/wins"} <= set(last[0])
    assert "first return" in stderr


def test_an_evaluation_tells_wins_draws_and_losses(played_run: tuple[Path, str]) -> None:
    run, stderr = played_run
    assert "evaluation before round 1: return " in stderr and "nothing was judged" not in stderr
    first, last = (
        {line["peer"]: line for line in metrics(run) if "eval/time" in line and line["round"] == number}
        for number in (0, ROUNDS)
    )
    for lines in (first, last):
        for line in lines.values():
            shares = [line[f"eval/stage0/random/{name}"] for name in ("wins", "draws", "losses")]
            assert sum(shares) == pytest.approx(1.0)
            assert shares[0] == line["eval/play/random/wins"]
    wins = [np.mean([line["eval/stage0/random/wins"] for line in lines.values()]) for lines in (first, last)]
    assert f"random/wins {wins[1]:.4g} (baseline {wins[0]:.4g})" in evaluation_line(ROUNDS, last, first)  # type: ignore[arg-type]
    shown = io.StringIO()
    Console(file=shown, width=100).print(evaluation_table([(0, first), (ROUNDS, last)]))  # type: ignore[list-item]
    rows = {line.split()[1]: line.split()[2:] for line in shown.getvalue().splitlines() if "random/" in line}
    assert list(rows) == ["random/wins", "random/draws", "random/losses"]
    assert rows["random/wins"] == [f"{wins[0]:.3f}", f"{wins[1]:.3f}", f"{wins[1] - wins[0]:+.3f}"]


def test_one_run_is_shown_with_its_curves(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "runs", run, "--png", tmp_path / "curves.png")
    assert f"stage0/return  rounds 0 to {ROUNDS - 1}" in out and "stage0/random/wins  rounds" in out
    assert "stage0/random/losses" in out.partition("evaluations")[2]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    value = np.mean([line["stage0/return"] for line in metrics(run) if line.get("stage0/return") is not None][-2:])
    row = next(text for text in printed(capsys, "runs", run.parent).splitlines() if text.split()[:1] == ["boards"])
    assert f"{value:.3f}" in row


def test_episodes_are_printed_with_their_boards(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = open_run(run).frame("play", ROUNDS - 1)
    assert isinstance(rows, Trajectories)
    returns = [float(rows.take(at).numpy("reward").sum()) for at in _seats(rows)]
    out = printed(capsys, "rollouts", run, "--node", "play", "--top", 2, "--full")
    assert out.count("\nreward 1.000 advantage ") == 2 == out.count("[moves]")
    assert f"2 of {len(returns)} rollouts" in out
    best = next(at for at in _seats(rows) if rows.take(at).numpy("reward").sum() == 1.0)
    episode = rows.take(best)
    whole = printed(capsys, "rollouts", run, "--node", "play", "--task", episode.values("task_id")[0], "--limit", 99)
    shown = whole.partition(f"{episode.values('id')[0][:10]}")[2].partition("\n---")[0]
    assert f"seat {episode.values('seat')[0]}, {len(episode)} steps, terminated" in shown
    for step, action in enumerate(episode.values("action")):
        assert f"{step}: action {action}" in shown
    assert ", reward 1" in shown
    for line in board(episode.numpy("observation")[0]):
        assert line in shown
    taken = printed(capsys, "rollouts", run, "--node", "games", "--limit", 1)
    assert "[moves]" in taken and "--- games  round 2" in taken


def _seats(rows: Trajectories) -> list[np.ndarray]:
    codes = rows.trajectory_codes()
    return [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]


def test_a_lineage_leads_from_any_step_to_the_seed_and_the_update(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    id = open_run(run).frame("play", 1, holder="peer0001").values("id")[1]
    whole = printed(capsys, "lineage", run, id)
    assert whole == printed(capsys, "lineage", run, id[:12])
    task, first, verdict, text, *rest = whole.splitlines()
    assert first.startswith(id[:10]) and verdict.startswith("reward 1.000")
    assert text.startswith("seed (0, 1, play, peer0001), sample 0  'actions ")
    assert task.endswith(f"task {open_run(run).frame('play', 1, holder='peer0001').values('task_id')[1]}")
    assert any(text.startswith("trained on by update  round 1  peer0001  ") for text in rest)
    assert any(text.startswith("trained on by update  round 1  peer0000  ") for text in rest), "it was shared"
    assert "quoted by no rollout" in rest
    assert "no rollout 'zz'" in printed(capsys, "lineage", run, "zz", code=3)


def test_episodes_that_failed_are_found_with_their_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = "{id: test/Corridor-v0, params: {breaks: raise}}"
    text = (GAMES / "cartpole.yaml").read_text().replace("{id: CartPole-v1}", broken)
    (tmp_path / "game.yaml").write_text(text)
    small = [*SMALL, "run.mode=train", "run.rounds=1", "nodes.tasks.params.num_episodes=3", "run.max_failed_share=1"]
    play(load(tmp_path / "game.yaml", small), out=tmp_path / "run", quiet=True)
    out = printed(capsys, "rollouts", tmp_path / "run", "--failed")
    assert "3 of 3 rollouts" in out and "error: move 2: RuntimeError: the floor gave way" in out


def test_what_is_no_board_is_a_line_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (GAMES / "cartpole.yaml").read_text().replace("{id: CartPole-v1}", "{id: test/Corridor-v0}")
    (tmp_path / "game.yaml").write_text(text)
    play(load(tmp_path / "game.yaml", [*SMALL, "run.mode=train", "run.rounds=1"]), out=tmp_path / "run", quiet=True)
    out = printed(capsys, "rollouts", tmp_path / "run", "--top", 1)
    lines = out.partition("[moves]\n")[2].splitlines()
    assert lines[0].startswith("0: action ") and "reward -0.01  sees " in lines[0]
    assert sorted(lines[0].partition("sees ")[2].split()) == ["0"] * 5 + ["1"]
