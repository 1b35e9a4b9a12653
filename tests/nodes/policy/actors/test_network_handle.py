"""`policy.actor_critic` and `policy.q_network`: initial weights, actions, saving and loading."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrl_graph.errors import DataError, ParamError, StoreError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.policy.actor_critic import ActorCriticCarry
from genrl_graph.nodes.policy.actors.network_handle import load_frozen
from genrl_graph.nodes.policy.fork import ForkPolicy
from genrl_graph.nodes.policy.q_network import QNetworkCarry
from genrl_graph.seeds import stream

BOARD = {"observation": (4, 5, 2), "actions": 3, "hidden": (8,)}
CARRIES = [
    ActorCriticCarry(**BOARD),
    ActorCriticCarry(**BOARD, shared=True),
    ActorCriticCarry(**BOARD, channels=(6, 4)),
    ActorCriticCarry(**BOARD, channels=(6,), shared=True, activation="relu"),
    QNetworkCarry(**BOARD),
    QNetworkCarry(**BOARD, channels=(6,)),
]


@pytest.fixture(params=range(len(CARRIES)))
def carry(request: pytest.FixtureRequest) -> Any:
    return CARRIES[request.param]


def seen(rows: int = 7) -> Any:
    return stream("seen").standard_normal((rows, 4, 5, 2)).astype(np.float32)


def trained(policy: Any) -> None:
    for parameter in policy.model.parameters():
        drawn = stream("gradient", policy.version).standard_normal(tuple(parameter.shape))
        parameter.grad = torch.from_numpy(drawn.astype(np.float32))
    policy.step(learning_rate=0.01, max_grad_norm=1.0)


def test_weights_are_a_function_of_seed_and_name(carry: Any) -> None:
    policy = carry.init("policy", seed=1)
    assert policy.digest() == carry.init("policy", seed=1).digest()
    assert policy.digest() not in (carry.init("policy", seed=2).digest(), carry.init("other", seed=1).digest())


def test_matrices_are_orthogonal_with_the_gain_of_their_place() -> None:
    policy: Any = ActorCriticCarry(**BOARD).init("policy", seed=0)
    gains = {"heads.actor.0.layers.0.weight": 2.0, "heads.actor.1.weight": 1e-4, "heads.critic.1.weight": 1.0}
    for name, gain in gains.items():
        matrix = policy.model.get_parameter(name).detach()
        assert torch.allclose(matrix @ matrix.T, gain * torch.eye(len(matrix)), atol=1e-5), name
    assert all((p == 0).all() for name, p in policy.model.named_parameters() if name.endswith("bias"))


def test_it_comes_back_from_the_disk_with_its_optimiser(carry: Any, tmp_path: Path) -> None:
    policy, again = carry.init("policy", seed=0), carry.init("policy", seed=9)
    trained(policy)
    policy.save(tmp_path)
    again.load(tmp_path)
    frozen: Any = load_frozen(tmp_path)
    assert (again.digest(), again.version) == (frozen.digest(), frozen.version) == (policy.digest(), 1)
    assert frozen.name == "policy"
    for handle in (policy, again, frozen):
        trained(handle)
    assert policy.digest() == again.digest() == frozen.digest()


def test_a_fork_goes_its_own_way_with_the_same_optimiser_state(carry: Any) -> None:
    policy = carry.init("policy", seed=0)
    trained(policy)
    fork, frozen, before = ForkPolicy().run(policy), policy.frozen("past"), policy.digest()
    assert (fork.name, fork.version, fork.digest()) == ("policy.fork", 1, before)
    trained(fork)
    assert policy.digest() == frozen.digest() == before != fork.digest()
    trained(policy)
    assert policy.digest() == fork.digest()
    trained(frozen)
    assert frozen.digest() != policy.digest()  # it had no optimiser state


def test_only_legal_actions_are_taken_with_the_log_probs_of_the_policy(carry: Any) -> None:
    policy = carry.init("policy", seed=0)
    masks = np.asarray([[1, 0, 1]] * 6 + [[0, 1, 0]], np.int8)
    for greedy in (True, False):
        acts = policy.act(seen(), masks, rng=stream(0), greedy=greedy)
        assert masks[np.arange(7), acts.actions].all()
        assert (acts.logprobs <= 0).all() and acts.logprobs[-1] == 0
        assert acts.values.shape == (7,)
        assert acts.actions.dtype == np.int32 and acts.logprobs.dtype == acts.values.dtype == np.float32


def test_actions_are_drawn_as_often_as_they_are_likely() -> None:
    policy: Any = ActorCriticCarry(observation=(2,), actions=4, hidden=()).init("policy", seed=0)
    with torch.no_grad():
        policy.model.heads["actor"][1].bias.copy_(torch.tensor([0.0, 1.0, 2.0, 5.0]))
    masks = np.tile(np.asarray([1, 1, 1, 0], np.int8), (20_000, 1))
    acts = policy.act(np.zeros((20_000, 2), np.float32), masks, rng=stream(0))
    chances = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    assert np.allclose(np.bincount(acts.actions, minlength=4) / 20_000, [*chances, 0], atol=0.015)
    assert np.allclose(acts.logprobs, np.log(chances)[acts.actions], atol=1e-5)
    logprobs, _ = policy.evaluate(torch.zeros(1, 2), torch.from_numpy(masks[:1]))
    assert np.allclose(logprobs.exp().detach().numpy(), [[*chances, 0]], atol=1e-6)


def test_exploration_falls_with_the_optimiser_steps() -> None:
    carry = QNetworkCarry(observation=(2,), actions=4, epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=10)
    policy: Any = carry.init("policy", seed=0)
    seen, masks = np.ones((4000, 2), np.float32), np.tile(np.asarray([1, 1, 1, 0], np.int8), (4000, 1))
    best = policy.act(seen[:1], masks[:1], rng=stream(0), greedy=True).actions[0]
    shares = []
    for version in (0, 5, 10, 50):
        policy.version = version
        acts = policy.act(seen, masks, rng=stream(version))
        shares.append(float((acts.actions == best).mean()))
        chance = np.exp(acts.logprobs)
        assert np.allclose(chance[acts.actions == best], shares[-1], atol=0.03)
    assert np.allclose(shares, [1 / 3, 0.4 + 0.6 / 3, 0.8 + 0.2 / 3, 0.8 + 0.2 / 3], atol=0.03)


def test_sizes_come_from_the_environment() -> None:
    policy: Any = ActorCriticCarry(environment=Environment(id="CartPole-v1")).init("policy", seed=0)
    assert (policy.spaces.observation, policy.spaces.actions) == ((4,), 2)
    with pytest.raises(DataError, match=r"convolutions read height x width x planes, not \[4\]"):
        ActorCriticCarry(environment=Environment(id="CartPole-v1"), channels=(4,)).init("policy", seed=0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "give either environment, or observation and actions"),
        ({"observation": (4,)}, "give either environment, or observation and actions"),
        ({"environment": {"id": "CartPole-v1"}, "actions": 2}, "give either environment, or observation and actions"),
        ({"observation": (4,), "actions": 2, "hidden": (8, 0)}, "sizes are at least 1, got 0"),
        ({"observation": (4,), "actions": 2, "channels": (8,)}, "convolutions read height x width x planes"),
    ],
)
def test_invalid_sizes_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        ActorCriticCarry(**params)


def test_what_was_another_network_is_not_loaded(tmp_path: Path) -> None:
    ActorCriticCarry(**BOARD).init("policy", seed=0).save(tmp_path)
    with pytest.raises(StoreError, match="was it another model"):
        ActorCriticCarry(**BOARD | {"hidden": (9,)}).init("policy", seed=0).load(tmp_path)
    spec = json.loads((tmp_path / "network.json").read_text())
    for broken in ({**spec, "head": "tail"}, {"name": "x"}, {**spec, "more": 1}):
        (tmp_path / "network.json").write_text(json.dumps(broken))
        with pytest.raises(StoreError, match="holds no network"):
            load_frozen(tmp_path)


HUGE: dict[str, dict[str, Any]] = {
    "wide layers": {"hidden": [10**9, 10**9]},
    "a wide layer": {"hidden": [10**11]},
    "many layers": {"hidden": [1] * 100_000},
    "long observations": {"observation": [10**6, 10**6]},
    "many actions": {"actions": 10**12},
    "wide convolutions": {"channels": [10**6, 10**6]},
    "sizes beyond any number of bytes": {"hidden": [2**62, 2**62]},
    "no sizes": {"hidden": ["a", None]},
    "a large file": {"name": "x" * 2**21},
}


@pytest.mark.parametrize("claim", HUGE)
def test_a_network_of_a_claimed_size_is_held_against_the_stored_weights(claim: str, tmp_path: Path) -> None:
    ActorCriticCarry(**BOARD).init("policy", seed=0).save(tmp_path)
    spec = json.loads((tmp_path / "network.json").read_text())
    (tmp_path / "network.json").write_text(json.dumps(spec | HUGE[claim]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match="holds no network: ") as error:
        load_frozen(tmp_path)
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("name", ["body.layers.0.weight", "more"])
def test_weights_of_a_claimed_size_are_not_read(file: str, name: str, tmp_path: Path) -> None:
    policy = ActorCriticCarry(**BOARD).init("policy", seed=0)
    trained(policy)
    policy.save(tmp_path)
    size = 2**33
    header = json.dumps({name: {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    (tmp_path / file).write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(tmp_path / file, 8 + len(header) + size)  # takes no place on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match="was it another model"):
        policy.load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB
