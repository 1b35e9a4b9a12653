"""Graphs that ranks cannot play as a group are refused before a model is loaded, in one line each."""

from pathlib import Path

import pytest

from genrl_graph.cli import run_command
from genrl_graph.errors import ParamError
from genrl_graph.graph_file.read import read
from genrl_graph.runners.play import play

ROOT = Path(__file__).parents[3]


def refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_command(["check", *arguments]) != 0
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_an_update_that_needs_the_whole_policy_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = refused("expert_iteration", "run.replicas=2", capsys=capsys)
    assert "nodes.update.policy: update.sft needs all of policy 'policy', of which each of 2 ranks holds a part" in text
    assert run_command(["check", "expert_iteration", "run.replicas=1"]) == 0


def test_a_game_without_a_policy_to_share_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = refused("games/cartpole", "run.replicas=2", capsys=capsys)
    assert "run.replicas is 2, but no carry has a policy that ranks can share; set it to 1" in text
    assert run_command(["check", "tiny", "run.replicas=2"]) == 0


def test_one_process_cannot_be_several_ranks(tmp_path: Path) -> None:
    with pytest.raises(ParamError, match=r"run.replicas: 2, but .* start ranks with `torchrun --nproc-per-node 4 "):
        play(read(ROOT / "graphs/tiny.yaml", ["run.replicas=2", "run.peers=2"]).graph, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
