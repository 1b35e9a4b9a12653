"""`update.dqn`, `update.replay` and their shared buffer, on real trajectories."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrl_graph import Log
from genrl_graph.contract import registry
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.errors import StoreError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.play import Play
from genrl_graph.nodes.policy.q_network import QNetworkCarry
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.update.dqn import Dqn
from genrl_graph.nodes.update.replay_buffer import AddToReplay, ReplayBuffer, ReplayCarry, Transitions
from genrl_graph.seeds import stream

registry.import_file(Path(__file__).parents[2] / "corridors.py")
CORRIDOR = Environment(id="test/Corridor-v0")


@pytest.fixture
def policy() -> Any:
    return QNetworkCarry(environment=CORRIDOR, hidden=(16,), epsilon_steps=200).init("policy", seed=0)


def played(policy: Any, *, seed: int = 0, num_episodes: int = 4, limit: int = 50) -> Trajectories:
    environment = Environment(id="test/Corridor-v0", params={"limit": limit})
    tasks = EnvironmentSource(environment=environment, num_episodes=num_episodes).run(rng=stream(seed), round=0)
    return Play().run(tasks, policy, rng=stream(seed), log=Log(), round=0, peer="peer0000")


def test_transitions_are_the_steps_with_what_the_environment_showed_next(policy: Any) -> None:
    rows = played(policy, limit=8)
    actual = Transitions.of(rows.take(np.random.default_rng(0).permutation(len(rows))))
    expected = []
    table = rows.rows("task_id", "step", "action", "reward", "finish_reason")
    for at, row in enumerate(table):
        if row["finish_reason"] == "truncated":
            continue
        over = row["finish_reason"] == "terminated"
        seen, after = rows.numpy("observation")[at], np.zeros(6) if over else rows.numpy("observation")[at + 1]
        expected.append((*seen, row["action"], np.float32(row["reward"]), over, *after))
    columns = (actual.observation, actual.action[:, None], actual.reward[:, None], actual.terminated[:, None])
    assert sorted(map(tuple, np.hstack([*columns, actual.following]).tolist())) == sorted(
        tuple(float(value) for value in row) for row in expected
    )
    assert actual.mask.all()


def test_the_buffer_is_a_ring_and_comes_back_from_the_disk(policy: Any, tmp_path: Path) -> None:
    rows, more = played(policy), played(policy, seed=1)
    replay, log = ReplayCarry(capacity=30).init("replay", seed=0), Log()
    empty = replay.digest()
    assert AddToReplay().run(replay, [rows, more], log=log) is replay
    every = Transitions.of(Trajectories.concat([rows, more]))
    newest = every.take(np.arange(len(every) - 30, len(every)))
    drawn = replay.sample(500, stream(0))
    assert {tuple(row) for row in drawn.observation.tolist()} == {tuple(row) for row in newest.observation.tolist()}
    assert (len(replay), log.metrics["remembered"], replay.total) == (30, 30, len(every))
    replay.save(tmp_path)
    again = ReplayBuffer(30)
    again.load(tmp_path)
    assert again.digest() == replay.digest() != empty
    assert np.array_equal(again.sample(9, stream(1)).following, replay.sample(9, stream(1)).following)
    with pytest.raises(StoreError, match="a replay buffer of 30; this graph wants 31"):
        ReplayBuffer(31).load(tmp_path)
    (tmp_path / "replay.safetensors").write_bytes(b"x")
    with pytest.raises(StoreError, match="holds no replay buffer"):
        ReplayBuffer(30).load(tmp_path)


def test_an_empty_buffer_comes_back_too(tmp_path: Path) -> None:
    ReplayBuffer(5).save(tmp_path)
    again = ReplayBuffer(5)
    again.load(tmp_path)
    assert again.digest() == ReplayBuffer(5).digest()
    again.add(Transitions(*(np.zeros((0, 1)) for _ in range(6))))  # type: ignore[arg-type]
    assert len(again) == 0


def test_nothing_is_learned_until_there_is_enough_and_between_its_rounds(policy: Any) -> None:
    replay, before = ReplayBuffer(1000), policy.digest()
    AddToReplay().run(replay, [played(policy)], log=Log())
    for node in (Dqn(start_size=1000), Dqn(start_size=1, every=2)):
        assert node.run(policy, replay, rng=stream(0), log=Log(), round=0) is policy
        assert policy.digest() == before
    log = Log()
    Dqn(start_size=1, every=2, steps_per_row=0.5).run(policy, replay, rng=stream(0), log=log, round=1)
    assert policy.version == log.metrics["optimiser_steps"] == round(0.5 * replay.added)


def test_the_target_follows_in_steps(policy: Any) -> None:
    replay, seen = ReplayBuffer(1000), torch.eye(6)
    AddToReplay().run(replay, [played(policy)], log=Log())
    first = policy.action_values(seen, target=True).clone()
    assert torch.equal(first, policy.action_values(seen).detach())
    steps = round(0.5 * replay.added)
    Dqn(start_size=1, target_every=steps + 1).run(policy, replay, rng=stream(0), log=Log(), round=0)
    assert torch.equal(policy.action_values(seen, target=True), first)
    Dqn(start_size=1, target_every=2 * steps).run(policy, replay, rng=stream(0), log=Log(), round=0)
    assert torch.equal(policy.action_values(seen, target=True), policy.action_values(seen).detach())


def test_it_learns_what_each_action_is_worth(policy: Any) -> None:
    replay = ReplayBuffer(5000)
    for round in range(25):
        AddToReplay().run(replay, [played(policy, seed=round)], log=Log())
        Dqn(start_size=100, learning_rate=0.005, target_every=50).run(
            policy, replay, rng=stream(round), log=Log(), round=round
        )
    right = policy.action_values(torch.eye(6))[:, 1].detach().numpy()
    worth = [1.0 * 0.99**k - 0.01 * sum(0.99**i for i in range(k + 1)) for k in range(5, -1, -1)]
    assert np.allclose(right, worth, atol=0.1)
    assert policy.act(np.eye(6, dtype=np.float32), np.ones((6, 2), np.int8), rng=stream(0), greedy=True).actions.all()
