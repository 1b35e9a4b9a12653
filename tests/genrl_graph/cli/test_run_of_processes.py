"""A run with a process for each peer is a run for every command."""

import json
from pathlib import Path

import pytest
from toys import toy_game

from genrl_graph import play
from genrl_graph.cli import run_command
from genrl_graph.records.stored_run import open_run
from genrl_graph.runners.replay.rounds import StoredRounds
from genrl_graph.store.metrics_file import METRICS
from genrl_graph.store.run_store import RunStore

PEERS = ("peer0000", "peer0001")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two peers, with each peer in a folder of its own, as ranks of torchrun leave it."""
    folder = tmp_path_factory.mktemp("processes")
    whole = play(toy_game(), out=folder / "whole", rounds=2, peers=2, quiet=True).folder
    source, stored = RunStore.open(whole), StoredRounds(open_run(whole))
    metrics = [json.loads(line) for line in (whole / METRICS).read_text().splitlines()]
    for peer in PEERS:
        (folder / "ranks").mkdir(exist_ok=True)
        with RunStore.create(folder / "ranks" / peer, source.graph_yaml, source.versions) as store:
            steps = [step for step in source.steps().to_pylist() if step["holder"] == peer]
            store.commit([stored.holder_round(step["round"], peer).record(step["node"]) for step in steps])
        own = [json.dumps(line) + "\n" for line in metrics if line["peer"] == peer]
        (folder / "ranks" / peer / METRICS).write_text("".join(own))
    return folder / "ranks"


def test_commands_that_read_a_run_read_all_of_it(
    ranks: Path, tmp_path: Path, toys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ["--import", str(toys_file)]
    assert run_command(["store", "verify", str(ranks), *script]) == 0
    assert [line.partition(": ok")[0] for line in capsys.readouterr().out.splitlines()] == [
        str(ranks / peer) for peer in PEERS
    ]
    assert run_command(["store", "compact", str(ranks)]) == 0
    assert run_command(["diff", str(ranks), str(ranks.parent / "whole"), *script]) == 0
    capsys.readouterr()
    for run in (ranks, ranks.parent / "whole"):
        assert run_command(["draw", "--run", str(run), *script]) == 0
    drawn, whole = capsys.readouterr().out.split("toy · ")[1:]
    assert "2 peers" in drawn and drawn.replace("ranks: ", "whole: ") == whole


@pytest.mark.parametrize("folder", ["ranks", "ranks/peer0001"])
def test_a_resume_in_one_process_says_how_to_start_the_ranks(
    ranks: Path, folder: str, toys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ranks.parent / folder
    assert run_command(["resume", str(run), "--import", str(toys_file)]) == 3
    told = f"torchrun --nproc-per-node 2 -m genrl_graph resume {ranks} --runner torch"
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_a_damaged_peer_is_found_and_a_folder_without_a_run_is_none(
    ranks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged := tmp_path / "ranks").mkdir()
    for peer in PEERS:
        (ranks / peer).rename(damaged / peer)
    try:
        graph = damaged / "peer0001" / "graph.yaml"
        text = graph.read_text()
        graph.write_text("nothing")
        assert run_command(["store", "verify", str(damaged)]) == 12
        assert str(graph) in capsys.readouterr().err
        graph.write_text(text)
    finally:
        for peer in PEERS:
            (damaged / peer).rename(ranks / peer)
    assert run_command(["store", "verify", str(tmp_path)]) == 12
    err = capsys.readouterr().err
    assert "no run here" in err and "start it again" not in err
