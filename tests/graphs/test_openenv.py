"""A game that an OpenEnv server plays: without a server, with one, with one that dies, and played again without it."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openenv_server import LOST, Digit, OpenEnvServer

from genrl_graph import Graph, load
from genrl_graph.cli import run_command
from genrl_graph.errors import DataError
from genrl_graph.runners.play import play
from genrl_graph.store.run_store import RunStore

URL = "nodes.tasks.params.environment.params.url={}"
ONE = ["nodes.tasks.params.num_episodes=4", "run.trackers=[]", "run.rounds=2"]


def game(graphs: Path, server: OpenEnvServer, *more: str) -> Graph:
    return load(graphs / "dialogue" / "openenv.yaml", [URL.format(server.url), *ONE, *more])


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stored(folder: Path) -> dict[str, Any]:
    store = RunStore.open(folder)
    return {group: store.table(group).to_pydict() for group in store.groups()}


def test_without_a_server_it_is_checked_planned_and_played_dry(graphs: Path, capsys: Any, tmp_path: Path) -> None:
    file = str(graphs / "dialogue" / "openenv.yaml")
    for command in (["check", file], ["plan", file], ["draw", file]):
        assert run_command(command) == 0
    assert run_command(["run", file, "--dry"]) == 0
    printed = capsys.readouterr()
    assert "stand-ins: tasks (source.environment)" in printed.out + printed.err
    with OpenEnvServer() as server:
        server.stop()
        assert run_command(["run", file, "-o", str(tmp_path / "run"), URL.format(server.url)]) == DataError.exit_code
        assert "nodes.tasks: openenv digit: no server answers at" in capsys.readouterr().err
        server.start()


class Cuts(Digit):
    """Loses the fifth and the ninth move of all, as long as there are cuts left."""

    moves, cuts, lock = 0, [5, 9], threading.Lock()

    def step(self, data: Mapping[str, Any]) -> Any:
        with self.lock:
            Cuts.moves += 1
            if Cuts.moves in self.cuts:
                return LOST
        return super().step(data)


@pytest.mark.usefixtures("one_thread")
def test_a_lost_episode_begins_again_is_recorded_and_changes_nothing_else(graphs: Path, tmp_path: Path) -> None:
    with OpenEnvServer(Cuts) as server:
        cut = play(game(graphs, server, "run.rounds=1"), out=tmp_path / "cut", quiet=True).folder
        Cuts.cuts = []
        whole = play(game(graphs, server, "run.rounds=1"), out=tmp_path / "whole", quiet=True).folder
    rows, without = stored(cut), stored(whole)
    restarts = rows.pop("play/restarts")
    assert len(restarts["episode"]) == 2 and set(restarts["episode"]) <= set(rows["play"]["episode"])
    assert all("the server closed the connection" in reason for reason in restarts["reason"])
    assert sum(line.get("play/restarts", 0) for line in metrics(cut)) == 2
    after, before = (np.concatenate(one["play"].pop("logprobs")) for one in (rows, without))
    np.testing.assert_allclose(after, before, atol=1e-5)  # episodes side by side are other ones: rounding
    assert rows == without
    assert "failed" not in rows["play"]["finish_reason"]
    assert run_command(["store", "verify", str(cut)]) == 0


class Dies(Digit):
    def step(self, data: Mapping[str, Any]) -> Any:
        return LOST


@pytest.mark.usefixtures("one_thread")
def test_an_episode_that_is_lost_every_time_is_a_failed_row(graphs: Path, tmp_path: Path) -> None:
    with OpenEnvServer(Dies) as server:
        limits = ["run.max_failed_share=1", "run.rounds=1", "nodes.play.params.num_generations=2"]
        run = play(game(graphs, server, *limits), out=tmp_path / "run", quiet=True)
    rows = stored(run.folder)
    lost = [error for error in rows["play"]["error"] if error]  # the others were forfeited before a move was sent
    assert lost and all(error.startswith("move 1: the server closed the connection") for error in lost)
    assert len(rows["play/restarts"]["episode"]) == 2 * len(lost)
    assert server.sessions == 1 + 8 + 2 * len(lost), "the proof, and every lost episode three times"


@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_a_run_resumes_exactly_and_its_replay_needs_no_server(graphs: Path, tmp_path: Path) -> None:
    brief = "  brief: {type: reward.regex, inputs: {rollouts: play}, params: {pattern: '^[0-4]$'}}\n"
    with OpenEnvServer() as server:
        text = game(graphs, server).dump()
        (tmp_path / "game.yaml").write_text(text)
        folder = play(game(graphs, server), out=tmp_path / "whole", quiet=True).folder
        cut = ["run", str(tmp_path / "game.yaml"), "-o", str(tmp_path / "cut")]
        assert run_command([*cut, "run.rounds=1"]) == 0
        assert run_command([*cut, "--resume"]) == 0
    assert stored(tmp_path / "cut") == stored(folder)
    edited = tmp_path / "edited.yaml"
    edited.write_text(text.replace("  credit:\n", f"{brief}  credit:\n").replace("scored: play", "scored: brief"))
    assert run_command(["replay", str(folder), str(edited), "-o", str(tmp_path / "replay")]) == 0
    assert stored(tmp_path / "replay")["brief"]["id"] == stored(folder)["play"]["id"]
