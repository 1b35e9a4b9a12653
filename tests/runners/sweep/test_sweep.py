"""Sweeps as processes: cells are ordinary runs, failures are listed, kills and signals leave what can go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import genrl_graph
from genrl_graph.cli import run_command
from genrl_graph.records.stored_run import writer_of
from genrl_graph.runners.loop.signals import GRACE_S

PATIENCE_S = 120.0


def sweep_command(game: Path, toys: Path, *arguments: str) -> list[str]:
    """Return the command of a sweep of the small game."""
    return [sys.executable, "-m", "genrl_graph", "sweep", str(game), "--import", str(toys), "--jobs", "2", *arguments]


def wait_until(what: "subprocess.Popen[bytes]", lines: int, folder: Path) -> None:
    """Wait until a run of the sweep has reported so many rounds."""
    deadline = time.monotonic() + PATIENCE_S
    while sum(len(file.read_bytes().splitlines()) for file in folder.glob("*/metrics.jsonl")) < lines:
        assert time.monotonic() < deadline, "no run began"
        assert what.poll() is None, "the sweep ended"
        time.sleep(0.02)


def test_cells_are_ordinary_runs_and_a_failed_one_does_not_end_the_others(
    game: Path, toys_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = game.read_text().replace(
        "{type: reward.toy_parity, inputs: {rollouts: slow}}", "{type: reward.toy_broken, inputs: {rollouts: slow}}"
    )
    game.write_text(text)
    axis = "nodes.score.params.round=1,99"
    code = run_command(["sweep", str(game), axis, "--import", str(toys_file), "-o", "s", "--jobs", "2"])
    told = capfd.readouterr().err
    assert code == 16
    assert "  round_1-seed_0: exit code 21: nodes.score" in told
    assert "no idea" in told
    assert "genrl-graph: s: 1 of 2 cells failed: round_1-seed_0 (21); see logs/" in told
    assert "2 side by side: as asked for" in told
    assert "round_99-seed_0: starts, to play 4 rounds" in told
    run = genrl_graph.open_run("s/round_99-seed_0")
    assert run.metrics().num_rows == 4
    assert "ValueError" not in (tmp_path / "s/logs/round_99-seed_0.log").read_text()
    compared = genrl_graph.compare("s", metrics=["score/reward"])
    assert "s: 1 cell failed and may be short: round_1-seed_0" in compared.notes
    # what failed is played again, what is finished is not
    game.write_text(text)
    before = (tmp_path / "s/logs/round_99-seed_0.log").stat().st_size
    assert (
        run_command(["sweep", str(game), axis, "--import", str(toys_file), "-o", "s", "--jobs", "2", "--resume"]) == 16
    )
    told = capfd.readouterr().err
    assert "round_1-seed_0: goes on, to play 4 rounds" in told and "round_99" not in told
    assert "s: 1 of 2 cells in " in told and " s since it went on, 1 failed cell" in told
    assert (tmp_path / "s/logs/round_99-seed_0.log").stat().st_size == before
    assert len((tmp_path / "s/cells.jsonl").read_text().splitlines()) == 3


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_ended_leaves_no_process_and_goes_on(
    game: Path, toys_file: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    arguments = ("nodes.slow.params.seconds=0.1", "run.rounds=6", "--seeds", "0:2", "-o", "s", "--resume")
    command = sweep_command(game, toys_file, *arguments)
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    wait_until(process, 2, tmp_path / "s")
    children = [pid for folder in (tmp_path / "s").glob("*-seed_*") if (pid := writer_of(folder)) is not None]
    assert children
    process.send_signal(signum)
    sent = time.monotonic()
    _, told = process.communicate(timeout=PATIENCE_S)
    if signum == signal.SIGTERM:
        assert process.returncode == 143
        last = told.decode().splitlines()[-1]
        assert "what was committed is kept" in last and "`-o s --resume`" in last
        assert all(writer_of(folder) is None for folder in (tmp_path / "s").glob("*-seed_*"))
    while any(map(is_alive, children)):
        assert time.monotonic() - sent < 10 * GRACE_S  # of a busy machine; each run ends itself after GRACE_S
        time.sleep(0.02)
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    for seed in (0, 1):
        lines = (tmp_path / f"s/numbers-seed_{seed}/metrics.jsonl").read_text().splitlines()
        rounds = [json.loads(line)["round"] for line in lines]
        assert sorted(rounds) == list(range(6))


def is_alive(pid: int) -> bool:
    """Return whether a process still runs; one that has ended, but is not waited for, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_sweep_from_python_is_a_data_frame_of_its_cells(game: Path, toys_file: Path) -> None:
    graph = genrl_graph.load(game)
    sweep = genrl_graph.sweep(graph, ["run.rounds=1"], seeds=[3], out="s", jobs=1, imports=[str(toys_file)], quiet=True)
    (row,) = sweep.cells.to_dict("records")
    assert (row["setting"], row["seed"], row["state"], row["rounds"]) == ("numbers", 3, "finished", 1)
    assert not sweep.failed
    assert genrl_graph.open_run(row["folder"]).graph.run.seed == 3


def test_a_dry_sweep_says_what_it_would_take_and_writes_nothing(
    game: Path, toys_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["nodes.draw.params.high=10,20", "--seeds", "0:3", "--import", str(toys_file), "--dry"]
    assert run_command(["sweep", str(game), *arguments]) == 0
    out = capsys.readouterr().out
    assert out.startswith("6 cells: 2 settings x 3 seeds\n\n  high_10-seed_0  nodes.draw.params.high=10 run.seed=0\n")
    assert "side by side  1 with " in out
    assert "(what a run needs is unknown; give --jobs)" in out
    assert "time          ?\ndisk          ?\nunknown (?): high=10: nodes.draw: cannot be rehearsed" in out
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.yaml"]


@pytest.mark.long
def test_a_search_stops_settings_draws_others_and_goes_on(
    game: Path, toys_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more = ["--import", str(toys_file), "--jobs", "2", "--goal", "max:score/reward_even", "-o", "s"]
    command = ["sweep", str(game), "nodes.draw.params.high=1,2,100", "run.rounds=6", "--early-stop", "3", *more]
    assert run_command(command) == 0
    told = capfd.readouterr().err
    cells = {cell: rounds for cell, rounds in _rounds_played("s").items() if cell.endswith("-seed_0")}
    assert sorted(cells.values()) == [2, 2, 6]
    assert told.count("stopped after 2 rounds") == 2
    assert run_command([*command, "--resume"]) == 0
    assert _rounds_played("s") == cells
    drawn = [
        "sweep",
        str(game),
        "nodes.draw.params.high=int(interval(2,50))",
        "run.rounds=1",
        "--trials",
        "3",
        *more[:-1],
        "t",
    ]
    assert run_command(drawn) == 0
    assert len(_rounds_played("t")) == 3
    grown = [argument if argument != "3" else "4" for argument in drawn]
    assert run_command([*grown, "--resume"]) == 0
    assert len(_rounds_played("t")) == 4


def _rounds_played(folder: str) -> dict[str, int]:
    """Return how many rounds each run of a sweep has."""
    files = Path(folder).glob("*/metrics.jsonl")
    return {file.parent.name: len(file.read_text().splitlines()) for file in files}


def test_it_is_refused_with_resume(game: Path, toys_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["sweep", str(game), "--import", str(toys_file), "--dry", "--resume"]) == 3
    assert "--dry: plays nothing" in capsys.readouterr().err
    assert os.listdir() == ["numbers.yaml"]  # noqa: PTH208
