"""`update.text_ppo` against PPO for language models in plain torch: row by row, in the formulas of TRL's last PPO."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal
from fixture_types import Sample

from genrl_graph import Graph, GraphError, Log, ParamError, Rollouts, RunConfig, TextPolicy, play
from genrl_graph.dag.check import check
from genrl_graph.nodes.advantage.gae import GaeAdvantage
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.advantage.text_gae import TextGae
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.checkpoint import Checkpoint
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.critic_params import CriticParams
from genrl_graph.nodes.policy.fork import ForkPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.ppo import Ppo
from genrl_graph.nodes.update.text_ppo import TextPpo


@pytest.fixture(params=[True, False], ids=["shared", "own"])
def policy(request: pytest.FixtureRequest) -> CausalPolicy:
    """A tiny policy whose critic is a head on its model, or has a model of its own."""
    params: dict[str, Any] = {"hidden_size": 32, "layers": 1, "initializer_range": 0.2}
    policy = causal(TinyLM(**params, critic=CriticParams(head=request.param)).init("policy", seed=0))
    assert policy.critic is not None
    with torch.no_grad():
        policy.critic.head.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return policy


def valued(sample: Sample, policy: CausalPolicy, **params: Any) -> Rollouts:
    return TextGae(gamma=0.98, lam=0.9).run(sample(policy, **params), policy, log=Log())


def train(
    node: TextPpo, policy: CausalPolicy, rows: Rollouts, reference: TextPolicy | None = None
) -> Mapping[str, float]:
    log = Log()
    node.run(policy, [rows], reference, rng=np.random.default_rng(0), log=log, peer="peer0000")
    return log.metrics


def weights(policy: CausalPolicy) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in policy.trained().values()]).clone()


class PlainPpo:
    """PPO of a language model in plain torch: one call a row, nothing packed, means over all tokens of a step.

    As in TRL 0.29: advantages are whitened with Bessel's correction, values clipped around the old ones, and the value
    loss is half the mean of the larger error.
    """

    def __init__(self, policy: CausalPolicy, *, rate: float, value_coef: float, value_epsilon: float | None) -> None:
        self.policy, self.value_coef, self.value_epsilon = policy, value_coef, value_epsilon
        self.weights = list(policy.trained().values())
        self.optimizer = torch.optim.AdamW(self.weights, lr=rate, weight_decay=0.0)

    def read(self, row: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and values of the completion tokens of one row."""
        model: Any = self.policy.model
        critic = self.policy.critic
        assert critic is not None
        ids, start = torch.tensor([row["prompt_ids"] + row["completion_ids"]]), len(row["prompt_ids"])
        logits = model(input_ids=ids).logits[0, start - 1 : -1].float()
        logprobs = logits.log_softmax(-1)[range(ids.shape[1] - start), ids[0, start:]]
        trunk: Any = model.model if critic.trunk is None else critic.trunk
        hidden = trunk(input_ids=ids).last_hidden_state[0, start - 1 : -1]
        return logprobs, hidden @ critic.head.weight[0] + critic.head.bias

    def step(self, rows: Rollouts, old: Mapping[str, Any] | None) -> tuple[float, float]:
        """Take one step on the rows; returns policy loss and value loss. Without `old` the ratio is 1."""
        advantages = np.concatenate(rows.ragged("token_advantages")).astype(np.float64)
        mean, scale = advantages.mean(), np.sqrt(advantages.var(ddof=1) + 1e-8)
        count = len(advantages)
        policy_loss, value_loss = torch.zeros(()), torch.zeros(())
        for row in rows.rows():
            logprobs, values = self.read(row)
            before = logprobs.detach() if old is None else torch.tensor(np.array(old[row["id"]]))
            ratio = (logprobs - before).exp()
            advantage = torch.tensor((np.asarray(row["token_advantages"]) - mean) / scale, dtype=torch.float32)
            worse = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2))
            policy_loss = policy_loss + worse.sum() / count
            targets, known = torch.tensor(row["targets"]), torch.tensor(row["values"])
            error = (values - targets) ** 2
            if self.value_epsilon is not None:
                near = torch.clamp(values, known - self.value_epsilon, known + self.value_epsilon)
                error = torch.maximum(error, (near - targets) ** 2)
            value_loss = value_loss + 0.5 * error.sum() / count
        self.optimizer.zero_grad()
        (policy_loss + self.value_coef * value_loss).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        return float(policy_loss.detach()), float(value_loss.detach())


@pytest.mark.parametrize("value_epsilon", [None, 0.05])
@pytest.mark.parametrize("max_batch_tokens", [1, 100_000])
def test_steps_and_losses_equal_plain_torch(
    policy: CausalPolicy, sample: Sample, max_batch_tokens: int, value_epsilon: float | None
) -> None:
    rows, other = valued(sample, policy), policy.fork("policy")
    start = weights(policy)
    node = TextPpo(
        learning_rate=1e-2, epochs=2, value_coef=0.5, value_epsilon=value_epsilon, max_batch_tokens=max_batch_tokens
    )
    metrics = train(node, policy, rows)
    by_hand = PlainPpo(other, rate=1e-2, value_coef=0.5, value_epsilon=value_epsilon)
    sampled = dict(zip(rows.values("id"), rows.ragged("logprobs"), strict=True))
    losses = np.mean([by_hand.step(rows, None), by_hand.step(rows, sampled)], axis=0)
    assert metrics["policy_loss"] == pytest.approx(losses[0], abs=1e-5)
    assert metrics["value_loss"] == pytest.approx(losses[1], abs=1e-5)
    assert metrics["optimiser_steps"] == policy.version == 2
    ours, theirs = weights(policy) - start, weights(other) - start
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3
    assert (metrics["clipped_values"] > 0) == (value_epsilon is not None)


def test_the_first_gradient_is_that_of_plain_torch(policy: CausalPolicy, sample: Sample) -> None:
    rows, other = valued(sample, policy), policy.fork("policy")
    by_hand = PlainPpo(other, rate=0.0, value_coef=0.1, value_epsilon=0.2)
    by_hand.step(rows, None)
    expected = [torch.zeros_like(w) if w.grad is None else w.grad for w in by_hand.weights]
    seen: dict[str, torch.Tensor] = {}
    stepped = policy.step

    def step(**options: float) -> float:
        return stepped(**options | {"learning_rate": 0.0})

    backward = policy.backward

    def recorded(loss: torch.Tensor) -> None:
        backward(loss)
        seen.update({n: torch.zeros_like(w) if w.grad is None else w.grad.clone() for n, w in policy.trained().items()})

    policy.step, policy.backward = step, recorded  # type: ignore[method-assign]
    train(TextPpo(epochs=1), policy, rows)
    norm = torch.cat([g.flatten() for g in seen.values()]).norm()
    for ours, theirs in zip(seen.values(), expected, strict=True):
        clipped = ours * torch.clamp(1.0 / (norm + 1e-6), max=1.0)
        torch.testing.assert_close(clipped, theirs, rtol=1e-5, atol=1e-5)


def test_rows_without_a_finite_advantage_are_left_out(policy: CausalPolicy, sample: Sample) -> None:
    scored = sample(policy)
    rewards = scored.numpy("reward").copy()
    rewards[:5] = np.nan
    gae = TextGae()
    rows = gae.run(
        Rollouts.from_columns(
            {name: scored.table.column(name) for name in scored.table.column_names} | {"reward": rewards},
            marks=scored.marks,
        ),
        policy,
        log=Log(),
    )
    some, other = scored.where(np.isfinite(rewards)), policy.fork("policy")
    start = weights(policy)
    metrics = train(TextPpo(learning_rate=1e-2, epochs=1), policy, rows)
    train(TextPpo(learning_rate=1e-2, epochs=1), other, gae.run(some, other, log=Log()))
    assert metrics["left_out_rows"] == 5 and metrics["trained_rows"] == len(rows) - 5
    ours, theirs = weights(policy) - start, weights(other) - start
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


def game(carry: Any, *, update: Any = None, credit: Any = None, rounds: int = 4) -> Graph:
    g = Graph("game", run=RunConfig(rounds=rounds, checkpoint_every=2))
    policy = g.carry("policy", carry)
    tasks = g.add("tasks", ListSource(tasks=[{"question": "1+1=", "answer": "2"}]))
    speaker = Answer(template="{{ task.question }}", num_generations=8, max_new_tokens=3)
    answer = g.add("answer", speaker, tasks=tasks, policy=policy)
    score = g.add("score", RegexReward(pattern=r"([0-4])"), rollouts=answer)
    inputs = {"critic": policy} if credit is None else {}
    credited = g.add("credit", credit or TextGae(), scored=score, **inputs)
    g.next_round(policy=g.add("update", update or TextPpo(learning_rate=1e-2), policy=policy, credited=[credited]))
    return g


TINY: dict[str, Any] = {"alphabet": "0123456789+=", "hidden_size": 16, "heads": 2, "initializer_range": 0.3}


@pytest.mark.parametrize("head", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_run_that_is_resumed_ends_like_one_that_was_not(tmp_path: Path, head: bool) -> None:
    whole = game(TinyLM(**TINY, critic=CriticParams(head=head)))
    half = game(TinyLM(**TINY, critic=CriticParams(head=head)), rounds=2)
    play(whole, out=tmp_path / "whole", quiet=True)
    play(half, out=tmp_path / "parts", quiet=True)
    play(whole, out=tmp_path / "parts", quiet=True, resume=True)
    files = ("critic.safetensors", "model.safetensors", "optimizer.safetensors")
    last = "checkpoints/000004/peer0000/policy"
    for file in files:
        assert (tmp_path / "whole" / last / file).read_bytes() == (tmp_path / "parts" / last / file).read_bytes()
    from_run = causal(Checkpoint(run=str(tmp_path / "whole")).init("again", seed=0))
    assert from_run.has_critic and from_run.version == 16
    g = game(Checkpoint(run=str(tmp_path / "whole")), rounds=1)
    play(g, out=tmp_path / "more", quiet=True)


def test_a_policy_without_a_critic_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(GraphError) as caught:
        game(TinyLM(**TINY))
    advice = r"reads a policy without a critic; give its carry params.critic: {head: true}"
    assert str(caught.value) == f"nodes.credit: input 'critic' {advice}"


def test_a_fork_or_a_later_version_is_traced_to_its_carry() -> None:
    g = Graph("game")
    policy = g.carry("policy", TinyLM(**TINY))
    fork = g.add("fork", ForkPolicy(), policy=policy)
    with pytest.raises(GraphError, match="input 'critic' reads a policy without a critic"):
        tasks = g.add("tasks", ListSource(tasks=[{"question": "1+1=", "answer": "2"}]))
        answer = g.add("answer", Answer(num_generations=8), tasks=tasks, policy=policy)
        score = g.add("score", RegexReward(pattern=r"([0-4])"), rollouts=answer)
        g.add("credit", TextGae(), scored=score, critic=fork)


def test_a_critic_that_nothing_trains_is_refused() -> None:
    g = game(TinyLM(**TINY, critic=CriticParams()), update=Grpo(), credit=GroupAdvantage())
    (problem,) = check(g)
    assert str(problem) == (
        "carry.policy: has a critic that nothing trains; update this policy with update.text_ppo, or remove "
        "params.critic"
    )
    assert check(game(TinyLM(**TINY, critic=CriticParams()))) == []


def test_a_loaded_policy_without_a_critic_is_refused_before_round_0(tmp_path: Path) -> None:
    play(game(TinyLM(**TINY), update=Grpo(), credit=GroupAdvantage(), rounds=1), out=tmp_path / "grpo", quiet=True)
    with pytest.raises(ParamError, match=r"nodes\.update: input 'policy' reads a policy without a critic"):
        play(game(Checkpoint(run=str(tmp_path / "grpo"))), out=tmp_path / "ppo", quiet=True)


def test_rows_without_values_do_not_fit_the_input() -> None:
    with pytest.raises(GraphError, match=r"nodes\.update\.credited\.0: wants TokenValued, but 'credit' gives Credited"):
        game(TinyLM(**TINY, critic=CriticParams()), credit=GroupAdvantage())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epsilon": 0.0}, "update.text_ppo.epsilon: input should be greater than 0, got 0.0"),
        (
            {"correction_high": 3.0},
            "correction_high: 3.0 has no effect; set importance_correction to tis, mis or icepop",
        ),
        ({"decay": "linear"}, "decay 'linear' needs decay_steps > 0"),
    ],
)
def test_wrong_params_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError) as caught:
        TextPpo(**params)
    assert message in str(caught.value)


def test_a_kl_to_a_reference_holds_the_policy_back(policy: CausalPolicy, sample: Sample) -> None:
    rows, reference = valued(sample, policy), policy.frozen("reference")
    free = policy.fork("policy")
    metrics = train(TextPpo(learning_rate=1e-2, epochs=6, beta=5.0), policy, rows, reference)
    train(TextPpo(learning_rate=1e-2, epochs=6), free, rows)

    def distance(other: CausalPolicy) -> float:
        flat = [torch.cat([w.detach().flatten() for w in p.model.parameters()]) for p in (other, reference)]
        return float((flat[0] - flat[1]).norm())

    assert metrics["kl"] > 0 and distance(policy) < distance(free)


def test_ppo_and_gae_of_networks_name_those_of_language_models() -> None:
    with pytest.raises(GraphError, match=r"but 'score' gives Scored; advantage\.text_gae takes that"):
        game(TinyLM(**TINY, critic=CriticParams()), credit=GaeAdvantage())
    with pytest.raises(GraphError) as caught:
        game(TinyLM(**TINY, critic=CriticParams()), update=Ppo())
    assert "nodes.update.policy: wants ActorCritic, but 'policy' gives TextPolicy; update.text_ppo takes that" in str(
        caught.value
    )
