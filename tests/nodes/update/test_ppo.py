"""`update.ppo` and `update.reinforce` on real trajectories; PPO against a separate reference implementation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrl_graph import Log, NodeFailed, credit
from genrl_graph.contract import registry
from genrl_graph.edge_types.trajectories import VALUED, Trajectories
from genrl_graph.nodes.advantage.gae import GaeAdvantage
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.play import Play
from genrl_graph.nodes.policy.actor_critic import ActorCriticCarry
from genrl_graph.nodes.policy.actors.acting import ActorCritic
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.update.ppo import Ppo
from genrl_graph.nodes.update.reinforce import Reinforce
from genrl_graph.seeds import stream

registry.import_file(Path(__file__).parents[2] / "corridors.py")
CORRIDOR = Environment(id="test/Corridor-v0")


@pytest.fixture
def policy() -> Any:
    return ActorCriticCarry(environment=CORRIDOR, hidden=(16,)).init("policy", seed=0)


def played(policy: ActorCritic, *, seed: int = 0, peer: str = "peer0000", num_episodes: int = 8) -> Trajectories:
    tasks = EnvironmentSource(environment=CORRIDOR, num_episodes=num_episodes).run(rng=stream(seed), round=0)
    rows = Play().run(tasks, policy, rng=stream(seed), log=Log(), round=0, peer=peer)
    return GaeAdvantage().run(rows, log=Log())


def update(
    node: Ppo | Reinforce, policy: ActorCritic, *rows: Trajectories, log: Log | None = None, **more: Any
) -> None:
    resources: dict[str, Any] = {"rng": stream("update"), "log": log or Log(), "round": 0, "peer": "peer0000"}
    assert node.run(policy, list(rows), **resources | more) is policy


def test_one_minibatch_is_the_step_that_the_papers_write(policy: Any) -> None:
    rows = played(policy)
    twin = policy.fork("twin").model
    optimiser = torch.optim.Adam(twin.parameters(), lr=0.01, eps=1e-5)
    for _ in range(3):
        logits, values = twin(torch.from_numpy(rows.numpy("observation").copy()))
        chances = torch.distributions.Categorical(logits=logits)
        ratio = (chances.log_prob(torch.from_numpy(rows.numpy("action").copy())) - _column(rows, "logprob")).exp()
        advantage = _column(rows, "advantage")
        advantage = (advantage - advantage.mean()) / advantage.std()
        surrogate = torch.min(ratio * advantage, torch.clip(ratio, 0.9, 1.1) * advantage).mean()
        old, target = _column(rows, "value"), _column(rows, "target")
        values = values.flatten()
        near = old + torch.clip(values - old, -0.05, 0.05)
        critic = torch.max((values - target) ** 2, (near - target) ** 2).mean() / 2
        loss = -surrogate + 0.7 * critic - 0.03 * chances.entropy().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimiser.step()
    params = {"epsilon": 0.1, "value_epsilon": 0.05, "value_coef": 0.7, "entropy_coef": 0.03, "learning_rate": 0.01}
    update(Ppo(**params, epochs=3, minibatch_size=10**6), policy, rows)
    assert policy.version == 3
    for name, parameter in policy.model.named_parameters():
        assert torch.allclose(parameter, twin.get_parameter(name), atol=1e-5), name


def _column(rows: Trajectories, name: str) -> torch.Tensor:
    return torch.from_numpy(rows.numpy(name).astype(np.float32))


def test_it_learns_the_way_out(policy: Any) -> None:
    lengths = []
    for round in range(15):
        rows = played(policy, seed=round, num_episodes=16)
        lengths.append(len(rows) / 16)
        update(Ppo(learning_rate=0.01), policy, rows, round=round)
    assert lengths[0] > 10 and lengths[-1] < 6


def test_rows_that_cannot_train_are_left_out_and_counted(policy: Any) -> None:
    rows = played(policy)
    advantage = rows.numpy("advantage").copy()
    advantage[::2] = np.nan
    log = Log()
    update(Ppo(epochs=1), policy, rows, credit(rows, advantage), log=log)
    kept = len(rows) + int(np.isfinite(advantage).sum())
    assert (log.metrics["trained_rows"], log.metrics["left_out_rows"]) == (kept, 2 * len(rows) - kept)
    assert len(log.tables["trained"]["id"]) == kept
    before = policy.digest()
    update(Ppo(), policy, credit(rows, np.full(len(rows), np.nan)), log=log)
    assert policy.digest() == before and log.metrics["optimiser_steps"] == 0


def test_rows_of_other_peers_begin_at_ratio_1(policy: Any) -> None:
    other = ActorCriticCarry(environment=CORRIDOR, hidden=(8,)).init("policy", seed=1)
    foreign, log = played(other, peer="peer0001"), Log()
    update(Ppo(epochs=1, minibatch_size=10**6), policy, foreign, log=log)
    assert np.allclose(log.tables["trained"]["ratio"], 1.0, atol=1e-5)
    assert log.metrics["clipped"] == 0


def test_without_targets_the_critic_stays(policy: Any) -> None:
    rows = played(policy)
    plain = Trajectories(rows.table.drop_columns(["target"]), marks=rows.marks - {VALUED})
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    update(Ppo(), policy, plain)
    same = {name: torch.equal(p, before[name]) for name, p in policy.model.named_parameters()}
    assert {name.split(".")[1] for name, equal in same.items() if equal} == {"critic"}
    assert {name.split(".")[1] for name, equal in same.items() if not equal} == {"actor"}


def test_no_epoch_is_begun_once_the_policy_has_moved_far_enough(policy: Any) -> None:
    rows, log = played(policy), Log()
    update(Ppo(epochs=50, learning_rate=0.05, minibatch_size=10**6, target_kl=0.01), policy, rows, log=log)
    assert 1 <= log.metrics["optimiser_steps"] < 10


@pytest.mark.parametrize("node", [Ppo(every=3), Reinforce(every=3)])
def test_an_update_that_is_not_due_hands_the_policy_on(node: Ppo | Reinforce, policy: Any) -> None:
    rows, versions = played(policy), []
    for round in range(6):
        update(node, policy, rows, round=round)
        versions.append(policy.version)
    first = versions[2]
    assert versions == [0, 0, first, first, first, 2 * first] and first > 0


def test_weights_that_are_no_numbers_stop_the_run(policy: Any) -> None:
    rows = played(policy)
    with pytest.raises(NodeFailed, match="gradient norm is"):
        update(Reinforce(), policy, credit(rows, np.full(len(rows), 3e38)))
    assert policy.version == 0


def test_reinforce_is_one_step_along_the_score(policy: Any) -> None:
    rows, log = played(policy), Log()
    twin = policy.fork("twin").model
    logits, _ = twin(torch.from_numpy(rows.numpy("observation").copy()))
    logprobs = torch.log_softmax(logits, -1)[torch.arange(len(rows)), _column(rows, "action").long()]
    (-(logprobs * _column(rows, "advantage")).mean()).backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in twin.parameters() if p.grad is not None], 1e9)
    update(Reinforce(learning_rate=0.01, max_grad_norm=1e9), policy, rows, log=log)
    assert log.metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert (policy.version, log.metrics["trained_rows"]) == (1, len(rows))
    entropy = torch.distributions.Categorical(logits=logits.detach()).entropy().mean()
    assert log.metrics["entropy"] == pytest.approx(float(entropy))
