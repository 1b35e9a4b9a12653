"""The shipped games of boards and of control are played, cut, resumed and checked like any other graph."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import Graph, load
from genrl_graph.cli import run_command
from genrl_graph.contract import registry
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.edge_types.violation import ReceiverContext
from genrl_graph.errors import DataError
from genrl_graph.runners.dry import dry_play
from genrl_graph.runners.play import play
from genrl_graph.store.run_store import RunStore

CORRIDORS = Path(__file__).parents[1] / "corridors.py"
registry.import_file(CORRIDORS)

SMALL = {
    "cartpole": ["nodes.tasks.params.num_episodes=4"],
    "cartpole_dqn": ["nodes.update.params.start_size=10"],
    "tic_tac_toe": ["nodes.tasks.params.num_episodes=16", "nodes.remember.params.every=1"],
    "connect_four": ["nodes.tasks.params.num_episodes=6", "nodes.remember.params.every=1"],
    "leduc": ["nodes.tasks.params.num_episodes=16"],
    "chess": ["nodes.tasks.params.num_episodes=1", "nodes.update.params.minibatch_size=1024"],
}
FAST = [name for name in SMALL if name != "chess"]


def small(graphs: Path, name: str, *more: str) -> Graph:
    """A shipped game with few episodes a round."""
    overrides = ["run.eval_every=0", "run.eval_tasks=4", "run.trackers=[]", *SMALL[name], *more]
    return load(graphs / "games" / f"{name}.yaml", overrides)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", SMALL)
def test_it_plays_and_moves_its_policy(name: str, graphs: Path, tmp_path: Path) -> None:
    rounds = 1 if name == "chess" else 2
    graph = small(graphs, name, "run.mode=train")
    run = play(graph, out=tmp_path / "run", rounds=rounds, quiet=True)
    assert run.before["peer0000", "policy"] != run.after["peer0000", "policy"]
    rows = Trajectories(RunStore.open(run.folder).table("play").drop_columns(["holder", "reward"]))
    assert set(rows.values("round")) == set(range(rounds))
    known = ReceiverContext(compile_graph(graph).protocol, {})
    for at in rows.positions("round").values():
        assert [flaw.rule for flaw in rows.take(at).violations(known) if flaw.rows.any()] == []
    lines = metrics(run.folder)
    assert all(line["play/failed"] == 0 and line["play/steps"] > 0 for line in lines)
    assert lines[-1]["update/version"] > 0


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["cartpole", "tic_tac_toe"])
def test_an_evaluation_plays_held_out_seeds(name: str, graphs: Path, tmp_path: Path) -> None:
    run = play(small(graphs, name), out=tmp_path / "run", rounds=1, quiet=True)
    store = RunStore.open(run.folder)
    trained = set(store.table("play").column("task_id").to_pylist())
    tested = set(store.table("eval/play").column("task_id").to_pylist())
    assert len(tested) == 4 and not trained & tested
    last = metrics(run.folder)[-1]
    assert "eval/play/return" in last
    assert ("eval/play/random/wins" in last) == (name == "tic_tac_toe")


@pytest.mark.parametrize("name", FAST)
def test_it_is_tried_out_dry(name: str, graphs: Path) -> None:
    dry_play(small(graphs, name), quiet=True)


@pytest.mark.usefixtures("one_thread")
def test_equal_peers_share_what_they_played(graphs: Path, tmp_path: Path) -> None:
    text = (graphs / "games" / "cartpole.yaml").read_text()
    exchange = "  shared:\n    type: exchange.gather\n    inputs: {rows: play}\n    params: {min_peers: 2}\n"
    text = text.replace("  credit:\n", f"{exchange}  credit:\n").replace("scored: play", "scored: shared")
    (tmp_path / "shared.yaml").write_text(text)
    graph = load(tmp_path / "shared.yaml", ["run.mode=train", "run.trackers=[]", *SMALL["cartpole"]])
    run = play(graph, out=tmp_path / "run", rounds=2, peers=2, quiet=True)
    store = RunStore.open(run.folder)
    credited = store.table("credit").to_pylist()
    played = store.table("play").num_rows
    assert len(credited) == 2 * played
    assert np.isfinite([row["advantage"] for row in credited]).all()


TWO_POLICIES = """
graph: two
version: 1
carry:
  first: {type: policy.actor_critic, params: {observation: [2], actions: 2, hidden: [8]}, next: train_first}
  second: {type: policy.actor_critic, params: {observation: [2], actions: 2, hidden: [8]}, next: train_second}
  frozen: {type: policy.actor_critic, params: {observation: [2], actions: 2, hidden: [8]}}
nodes:
  tasks: {type: source.environment, params: {environment: {kind: pettingzoo, id: heap}, num_episodes: 4}}
  play_first:
    type: generate.play
    inputs: {tasks: tasks, policy: first, opponent: second}
    params: {opponents: {policy: 1}}
  play_second:
    type: generate.play
    inputs: {tasks: tasks, policy: second, opponent: frozen}
    params: {opponents: {policy: 1}}
  credit_first: {type: advantage.gae, inputs: {scored: play_first}}
  credit_second: {type: advantage.return_to_go, inputs: {scored: play_second}}
  train_first: {type: update.ppo, inputs: {policy: first, credited: [credit_first]}, params: {every: 2}}
  train_second: {type: update.reinforce, inputs: {policy: second, credited: [credit_second]}, params: {every: 3}}
run: {rounds: 6, trackers: []}
"""


@pytest.mark.usefixtures("one_thread")
def test_each_update_moves_its_own_policy_at_its_own_pace(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(TWO_POLICIES)
    run = play(load(tmp_path / "two.yaml"), out=tmp_path / "run", quiet=True)
    steps = RunStore.open(run.folder).steps().to_pylist()
    digests: dict[str, list[str]] = {"train_first": [], "train_second": []}
    for step in steps:
        if step["node"] in digests:
            digests[step["node"]] += json.loads(step["facts"])["digests"].values()
    before = {name: run.before["peer0000", name.removeprefix("train_")] for name in digests}
    moved = {
        name: [now != last for last, now in zip([before[name], *found], found, strict=False)]
        for name, found in digests.items()
    }
    assert moved == {"train_first": [False, True] * 3, "train_second": [False, False, True] * 2}
    assert run.after["peer0000", "first"] == digests["train_first"][-1]
    assert run.after["peer0000", "frozen"] == run.before["peer0000", "frozen"]


def test_an_environment_of_ones_own_is_played_from_the_command_line(tmp_path: Path, graphs: Path) -> None:
    text = (graphs / "games" / "cartpole.yaml").read_text().replace("CartPole-v1", "test/Corridor-v0")
    (tmp_path / "corridor.yaml").write_text(text)
    args = ["run", str(tmp_path / "corridor.yaml"), "-o", str(tmp_path / "run"), "-q", "--import", str(CORRIDORS)]
    assert run_command([*args, "run.rounds=1", "run.eval_tasks=2", "nodes.tasks.params.num_episodes=2"]) == 0
    assert metrics(tmp_path / "run")[-1]["eval/play/return"] < 1


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("observation: [4]\n      actions: 3", "CartPole-v1 has observations [4], 2 actions, but `policy` has"),
        ("environment: {id: FrozenLake-v1}", "but `policy` has observations [16], 4 actions; give the policy this"),
        ("observation: [4]\n      actions: 2", ""),
    ],
)
def test_a_policy_that_does_not_fit_is_an_error_of_the_check(
    network: str, told: str, graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (graphs / "games" / "cartpole.yaml").read_text().replace("environment: {id: CartPole-v1}", network, 1)
    (tmp_path / "game.yaml").write_text(text)
    code = run_command(["check", str(tmp_path / "game.yaml")])
    out = capsys.readouterr()
    assert (code == 0) == (not told)
    assert told in out.out + out.err


def test_a_wrong_environment_ends_the_run_before_it_has_a_folder(graphs: Path, tmp_path: Path) -> None:
    graph = small(graphs, "cartpole", "nodes.tasks.params.environment.id=NoGame-v1")
    with pytest.raises(DataError, match="NoGame-v1: cannot be made"):
        play(graph, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("one_thread")
def test_episodes_that_break_are_recorded_and_trained_without(tmp_path: Path, graphs: Path) -> None:
    broken = "{id: test/Corridor-v0, params: {breaks: nan}}"
    text = (graphs / "games" / "cartpole.yaml").read_text()
    head, _, tail = text.partition("nodes:")
    text = head.replace("{id: CartPole-v1}", broken) + "nodes:" + tail.replace("{id: CartPole-v1}", broken)
    (tmp_path / "game.yaml").write_text(text)
    graph = load(
        tmp_path / "game.yaml",
        ["run.mode=train", "run.trackers=[]", "nodes.tasks.params.num_episodes=3", "run.max_failed_share=1"],
    )
    run = play(graph, out=tmp_path / "run", rounds=2, quiet=True)
    (first, _) = metrics(run.folder)
    assert (first["play/failed"], first["play/failed_rows"], first["budget/failed_rows"]) == (1, 3, 3)
    assert run.before == run.after
    errors = RunStore.open(run.folder).table("play").column("error").to_pylist()
    assert errors == ["move 2: observation holds nan, outside its space"] * 6
