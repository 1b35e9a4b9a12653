"""`advantage.text_gae` against a recursion that is written out: tokens, turns, truncation, rows left out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal
from fixture_types import MakeRollouts
from numpy.typing import NDArray

from genrl_graph import Log, score
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.edge_types.turns import Turns
from genrl_graph.nodes.advantage.text_gae import TextGae
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.critic_params import CriticParams
from genrl_graph.nodes.policy.tiny_lm import TinyLM


@pytest.fixture(scope="module")
def critic() -> CausalPolicy:
    """A tiny policy whose critic says other than 0."""
    policy = causal(
        TinyLM(hidden_size=16, heads=2, layers=1, initializer_range=0.5, critic=CriticParams()).init("p", seed=0)
    )
    assert policy.critic is not None
    with torch.no_grad():
        policy.critic.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return policy


def plain_values(policy: CausalPolicy, row: dict[str, Any]) -> list[float]:
    """The values of a row by a plain call, in float64 from there on."""
    model: Any = policy.model
    critic = policy.critic
    assert critic is not None
    ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state[0, len(row["prompt_ids"]) - 1 :]
        return (hidden @ critic.head.weight[0] + critic.head.bias).double().tolist()


def recursion(rewards: Sequence[float], values: Sequence[float], after: float, gamma: float, lam: float) -> list[float]:
    """Equation 16 of arXiv 1506.02438, backwards: A_t = delta_t + gamma lam A_{t+1}."""
    advantages, following, next_value = [], 0.0, after
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        following = reward + gamma * next_value - value + gamma * lam * following
        next_value = value
        advantages.append(following)
    return advantages[::-1]


def rollouts(make: MakeRollouts, policy: CausalPolicy, rewards: Sequence[float], **columns: Any) -> Rollouts:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 7, len(rewards)).tolist()
    tokens: dict[str, Any] = {
        "prompt_ids": [rng.integers(3, 90, 4).tolist() for _ in rewards],
        "completion_ids": [rng.integers(3, 90, length).tolist() for length in lengths],
        "completion_mask": [[1] * length for length in lengths],
        "logprobs": [[-1.0] * length for length in lengths],
        "tokenizer_fingerprint": policy.tokenizer_fingerprint,
    }
    return score(make(["x"] * len(rewards), **tokens | columns), {"made_up": list(rewards)})


def credited(rows: Rollouts, policy: CausalPolicy, **params: Any) -> tuple[Rollouts, Log]:
    log = Log()
    return TextGae(**params).run(rows, policy, log=log), log


def assert_close(actual: NDArray[Any], expected: Sequence[float]) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("max_batch_tokens", [1, 100_000])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_tokens_get_the_advantages_of_the_definition(
    make_rollouts: MakeRollouts, critic: CausalPolicy, gamma: float, lam: float, max_batch_tokens: int
) -> None:
    rows = rollouts(make_rollouts, critic, [1.0, -0.5, 0.0, 2.0])
    result, log = credited(rows, critic, gamma=gamma, lam=lam, max_batch_tokens=max_batch_tokens)
    for at, row in enumerate(result.rows()):
        values = plain_values(critic, row)
        rewards = [0.0] * (len(values) - 2) + [row["reward"]]
        expected = recursion(rewards, values[:-1], 0.0, gamma, lam)
        assert_close(result.ragged("values")[at], values[:-1])
        assert_close(result.ragged("token_advantages")[at], expected)
        assert_close(result.ragged("targets")[at], np.add(expected, values[:-1]).tolist())
        assert row["advantage"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert log.metrics["left_out"] == 0 and log.metrics["reward"] == pytest.approx(0.625)


def test_a_cut_completion_is_an_end_or_bootstraps(make_rollouts: MakeRollouts, critic: CausalPolicy) -> None:
    rows = rollouts(make_rollouts, critic, [1.0, 1.0], finish_reason=["length", "stop"])
    ended, _ = credited(rows, critic)
    bootstrapped, _ = credited(rows, critic, on_length="bootstrap")
    row = rows.rows()[0]
    values = plain_values(critic, row)
    rewards = [0.0] * (len(values) - 2) + [1.0]
    assert_close(ended.ragged("token_advantages")[0], recursion(rewards, values[:-1], 0.0, 1.0, 0.95))
    assert_close(bootstrapped.ragged("token_advantages")[0], recursion(rewards, values[:-1], values[-1], 1.0, 0.95))
    assert (ended.ragged("token_advantages")[1] == bootstrapped.ragged("token_advantages")[1]).all()


def test_tokens_that_were_not_sampled_are_no_steps(make_rollouts: MakeRollouts, critic: CausalPolicy) -> None:
    rows = rollouts(
        make_rollouts, critic, [1.0], completion_ids=[[5, 6, 7]], completion_mask=[[1, 0, 1]], logprobs=[[-1.0] * 3]
    )
    result, _ = credited(rows, critic)
    values = plain_values(critic, rows.rows()[0])
    expected = recursion([0.0, 1.0], [values[0], values[2]], 0.0, 1.0, 0.95)
    assert_close(result.ragged("token_advantages")[0][[0, 2]], expected)
    assert np.isnan(result.ragged("token_advantages")[0][1]) and np.isnan(result.ragged("targets")[0][1])


def episode(
    policy: CausalPolicy, sample: int, rewards: Sequence[float], ending: str = "terminated"
) -> list[dict[str, Any]]:
    """The turns of a seat; later prompts hold the earlier turns, and what was heard."""
    rng, prompt = np.random.default_rng(sample), [5, 6, 7]
    rows = []
    for turn, reward in enumerate(rewards):
        said = rng.integers(3, 90, int(rng.integers(1, 5))).tolist()
        row = {"task_id": "t/0", "group_id": "g", "parent_ids": [], "peer": "a", "node": "play", "stage": 0, "round": 0}
        row |= {"sample": sample, "policy": "p", "policy_version": 0, "temperature": 1.0, "seat": 0, "turn": turn}
        row |= {"tokenizer_fingerprint": policy.tokenizer_fingerprint, "messages": [], "prompt_ids": list(prompt)}
        row |= {"completion_ids": said, "completion_mask": [1] * len(said), "logprobs": [-1.0] * len(said)}
        row |= {"completion": "", "finish_reason": "stop", "error": "", "heard": [], "action": "", "move": turn}
        row |= {"ending": ending if turn == len(rewards) - 1 else "", "reward": reward, "episode": f"e{sample}"}
        rows.append(row | {"id": f"e{sample}-{turn}"})
        prompt = [*prompt, *said, 8, 9]
    return rows


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
@pytest.mark.parametrize("over", ["token", "turn"])
def test_turns_of_an_episode_are_one_trajectory(critic: CausalPolicy, over: str, ending: str) -> None:
    plain = [*episode(critic, 0, [0.5, 0.0, 1.0], ending), *episode(critic, 1, [-1.0])]
    order = [3, 1, 0, 2]
    result, log = credited(
        Turns.from_rows([plain[at] for at in order], marks=[SCORED]), critic, over=over, gamma=0.9, lam=0.8
    )
    found = {row["id"]: row for row in result.rows()}
    values = {row["id"]: plain_values(critic, row) for row in plain}
    for turns in (plain[:3], plain[3:]):
        after = values[turns[-1]["id"]][-1] if turns[-1]["ending"] == "truncated" else 0.0
        if over == "turn":
            before = [values[row["id"]][0] for row in turns]
            expected = recursion([row["reward"] for row in turns], before, after, 0.9, 0.8)
            for row, advantage, value in zip(turns, expected, before, strict=True):
                assert_close(found[row["id"]]["token_advantages"], [advantage] * len(row["completion_ids"]))
                target = found[row["id"]]["targets"]
                assert target[0] == pytest.approx(advantage + value, abs=1e-5) and np.isnan(target[1:]).all()
            continue
        rewards = [r for row in turns for r in [*[0.0] * (len(row["completion_ids"]) - 1), row["reward"]]]
        before = [value for row in turns for value in values[row["id"]][:-1]]
        expected = recursion(rewards, before, after, 0.9, 0.8)
        assert_close(np.concatenate([found[row["id"]]["token_advantages"] for row in turns]), expected)
        assert_close(np.concatenate([found[row["id"]]["targets"] for row in turns]), np.add(expected, before).tolist())
    assert log.metrics["reward"] == pytest.approx(0.25), "the mean outcome of episodes"


def test_what_failed_is_not_whole_or_cannot_be_read_is_left_out(critic: CausalPolicy) -> None:
    failed = episode(critic, 0, [1.0], "failed")
    gap = [row for row in episode(critic, 1, [0.0, 0.0, 1.0]) if row["turn"] != 1]
    unjudged = episode(critic, 2, [0.0, float("nan")])
    foreign = [row | {"tokenizer_fingerprint": "other"} for row in episode(critic, 3, [1.0])]
    beyond = [row | {"prompt_ids": [10**6]} for row in episode(critic, 4, [1.0])]
    good = episode(critic, 5, [0.0, 1.0])
    rows = [*failed, *gap, *unjudged, *foreign, *beyond, *good]
    result, log = credited(Turns.from_rows(rows, marks=[SCORED]), critic)
    assert np.isfinite(result.numpy("advantage")).tolist() == [False] * (len(rows) - 2) + [True, True]
    assert log.metrics["left_out"] == len(rows) - 2
    assert all(np.isnan(row).all() for row in result.ragged("token_advantages")[:-2])


def test_no_rows_are_no_trouble(critic: CausalPolicy) -> None:
    result, log = credited(Turns.empty(marks=[SCORED]), critic)
    assert len(result) == 0 and log.metrics["left_out"] == 0


def test_the_explained_variance_is_that_of_the_targets(make_rollouts: MakeRollouts, critic: CausalPolicy) -> None:
    rows = rollouts(make_rollouts, critic, [1.0, -0.5, 0.0, 2.0])
    result, log = credited(rows, critic)
    targets, values = np.concatenate(result.ragged("targets")), np.concatenate(result.ragged("values"))
    assert log.metrics["explained_variance"] == pytest.approx(1 - np.var(targets - values) / np.var(targets), abs=1e-5)
    assert log.metrics["value"] == pytest.approx(values.mean(), abs=1e-6)
