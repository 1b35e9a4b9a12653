"""`update.grpo` through `run`, on rollouts that a tiny policy sampled."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from fixture_types import Sample

from genrl_graph import Graph, GraphError, Log, ParamError, Rollouts, TextPolicy, credit
from genrl_graph.contract.policy import TokenSequence
from genrl_graph.dag.check import check
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.compute import packing
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.packed_forward import ATTENTION
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.fork import ForkPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.steps.training import prompt_digest


def train(node: Grpo, policy: CausalPolicy, *inputs: Rollouts, reference: TextPolicy | None = None) -> Log:
    log = Log()
    updated = node.run(policy, list(inputs), reference, rng=np.random.default_rng(0), log=log, peer="peer0000")
    assert updated is policy
    return log


def weights(policy: CausalPolicy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def assert_moved_alike(start: Mapping[str, torch.Tensor], one: CausalPolicy, other: CausalPolicy) -> None:
    """Assert that both policies moved by the same step.

    Steps are compared as vectors: AdamW turns noise in a tiny gradient into a visible difference of that one weight.
    """
    ours, theirs = weights(one), weights(other)
    step = torch.cat([(ours[name] - start[name]).flatten() for name in start])
    expected = torch.cat([(theirs[name] - start[name]).flatten() for name in start])
    assert expected.norm() > 0
    assert float((step - expected).norm() / expected.norm()) < 1e-3


def plain_loss(policy: CausalPolicy, rows: Rollouts, old: Mapping[str, np.ndarray] | None) -> torch.Tensor:
    """Compute the dapo loss in plain torch, row by row without padding; without `old` the ratio is 1."""
    tokens = sum(len(ids) for ids in rows.values("completion_ids"))
    loss = torch.zeros(())
    for row in rows.rows():
        prompt, completion = row["prompt_ids"], row["completion_ids"]
        logits = policy.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(logits.float(), -1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        before = logprobs.detach() if old is None else torch.tensor(np.array(old[row["id"]]))
        ratio = (logprobs - before).exp()
        advantage = row["advantage"]
        loss = loss - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage).sum() / tokens
    return loss


class PlainTrainer:
    """AdamW in plain torch with the defaults of the policy, gradients clipped to norm 1."""

    def __init__(self, policy: CausalPolicy, *, rate: float) -> None:
        self._policy = policy
        self._weights = list(policy.model.parameters())
        self._optimizer = torch.optim.AdamW(self._weights, lr=rate, weight_decay=0.0)

    def step(self, rows: Rollouts, old: Mapping[str, np.ndarray] | None = None) -> None:
        """Take one step on the rows."""
        self._optimizer.zero_grad()
        plain_loss(self._policy, rows, old).backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()


def test_a_step_equals_plain_torch(policy: CausalPolicy, sample: Sample) -> None:
    rows, other = sample(policy), policy.fork("policy")
    start = weights(policy)
    log = train(Grpo(learning_rate=1e-2), policy, rows)
    PlainTrainer(other, rate=1e-2).step(rows)
    assert_moved_alike(start, policy, other)
    assert policy.version == 1
    assert log.metrics["ratio"] == 1.0
    assert log.metrics["trained_rows"] == len(rows)


def test_once_the_policy_has_moved_old_logprobs_are_the_samplers(policy: CausalPolicy, sample: Sample) -> None:
    first, second = sample(policy, seed=1), sample(policy, seed=2)
    other, start = policy.fork("policy"), weights(policy)
    log = train(Grpo(learning_rate=1e-2, steps="per_input"), policy, first, second)
    assert policy.version == 2
    ratios = dict(zip(log.tables["trained"]["id"], log.tables["trained"]["ratio"], strict=True))
    assert all(ratios[id] == 1.0 for id in first.values("id"))
    assert all(ratios[id] != 1.0 for id in second.values("id"))

    by_hand = PlainTrainer(other, rate=1e-2)
    by_hand.step(first)
    by_hand.step(second, dict(zip(second.values("id"), second.ragged("logprobs"), strict=True)))
    assert_moved_alike(start, policy, other)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"])
def test_micro_batches_change_nothing(policy: CausalPolicy, sample: Sample, loss_type: str) -> None:
    rows, other = sample(policy), policy.fork("policy")
    start = weights(policy)
    train(Grpo(learning_rate=1e-2, loss_type=loss_type, max_batch_tokens=1_000_000), policy, rows)
    train(Grpo(learning_rate=1e-2, loss_type=loss_type, max_batch_tokens=1), other, rows)
    assert_moved_alike(start, policy, other)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_prompts_that_are_read_once_change_nothing(
    policy: CausalPolicy, sample: Sample, monkeypatch: pytest.MonkeyPatch, loss_type: str, beta: float
) -> None:
    monkeypatch.setattr(packing, "LEAST_SHARED", 2)  # these prompts are short
    rows, start, padded = sample(policy), weights(policy), policy.fork("policy")
    tokens = ChatTokens(policy.hf_tokenizer, where="test")
    shared = CausalPolicy(
        "policy", policy.model, tokens, context=policy.context_length, training=Training(share_prefixes=True)
    )
    reference = policy.fork("reference") if beta else None
    for each in (shared, padded):
        node = Grpo(learning_rate=1e-2, loss_type=loss_type, beta=beta, steps="per_input", max_batch_tokens=200)
        train(node, each, rows, rows, reference=reference)
    model: Any = shared.model
    assert model.config._attn_implementation == ATTENTION
    assert_moved_alike(start, shared, padded)


def test_joint_inputs_are_one_step_on_all_rows(policy: CausalPolicy, sample: Sample) -> None:
    first, second = sample(policy, seed=1), sample(policy, seed=2, questions=2)
    other, start = policy.fork("policy"), weights(policy)
    train(Grpo(learning_rate=1e-2), policy, first, second)
    PlainTrainer(other, rate=1e-2).step(Rollouts.concat([first, second]))
    assert policy.version == 1
    assert_moved_alike(start, policy, other)


def test_groups_without_variance_cost_no_forward_pass_but_count_in_the_loss(
    policy: CausalPolicy, sample: Sample
) -> None:
    rows, other = sample(policy), policy.fork("policy")
    start = weights(policy)
    advantages = rows.numpy("advantage").copy()
    advantages[:8] = 0.0
    still = credit(rows, advantages)
    log = train(Grpo(learning_rate=1e-2), policy, still)
    PlainTrainer(other, rate=1e-2).step(still)
    assert_moved_alike(start, policy, other)
    assert log.metrics["groups_without_variance"] == 2
    assert log.metrics["rows_without_forward"] == 8
    assert log.metrics["trained_rows"] == 8
    assert set(log.tables["trained"]["id"]) == set(still.values("id")[8:])


def test_nothing_to_train_leaves_the_policy_alone(policy: CausalPolicy, sample: Sample) -> None:
    rows = sample(policy)
    before = policy.digest()
    log = train(Grpo(), policy, credit(rows, np.zeros(len(rows))), Rollouts.concat([rows.take([])]))
    assert (policy.version, policy.digest()) == (0, before)
    assert log.metrics["optimiser_steps"] == 0


def test_rows_without_a_finite_advantage_are_left_out(policy: CausalPolicy, sample: Sample) -> None:
    rows, other = sample(policy), policy.fork("policy")
    start = weights(policy)
    advantages = rows.numpy("advantage").copy()
    advantages[3], advantages[5] = np.nan, np.inf
    log = train(Grpo(learning_rate=1e-2), policy, credit(rows, advantages))
    kept = rows.take([at for at in range(len(rows)) if at not in (3, 5)])
    PlainTrainer(other, rate=1e-2).step(kept)
    assert log.metrics["left_out_rows"] == 2
    assert_moved_alike(start, policy, other)


def test_what_was_trained_on_is_what_was_sampled_from(policy: CausalPolicy, sample: Sample) -> None:
    rows = sample(policy)
    log = train(Grpo(), policy, rows)
    sampled = {id: prompt_digest(ids) for id, ids in zip(rows.values("id"), rows.ragged("prompt_ids"), strict=True)}
    trained = log.tables["trained"]
    assert dict(zip(trained["id"], trained["prompt_digest"], strict=True)) == sampled


def test_epochs_and_minibatches_are_steps_with_fixed_old_logprobs(policy: CausalPolicy, sample: Sample) -> None:
    rows = sample(policy)
    log = train(Grpo(learning_rate=1e-2, epochs=2, minibatches=2), policy, rows)
    assert policy.version == 4
    assert log.metrics["optimiser_steps"] == 4
    assert log.metrics["ratio"] != 1.0


def test_rows_of_other_peers_are_trained_under_the_own_policys_logprobs(policy: CausalPolicy, sample: Sample) -> None:
    stranger = TinyLM(hidden_size=32, layers=1, initializer_range=0.2).init("policy", seed=9)
    rows, other = sample(stranger, peer="peer0001"), policy.fork("policy")
    start = weights(policy)
    log = train(Grpo(learning_rate=1e-2), policy, rows)
    PlainTrainer(other, rate=1e-2).step(rows)  # a ratio of 1, although another policy sampled them
    assert log.metrics["ratio"] == 1.0
    assert_moved_alike(start, policy, other)

    log = train(Grpo(learning_rate=1e-5, epochs=2), policy, rows)
    ratios = log.tables["trained"]["ratio"]
    assert all(0.9 < ratio < 1.1 for ratio in ratios)  # against the own log-probs before the first step
    assert any(ratio != 1.0 for ratio in ratios)


def test_rows_of_other_peers_keep_their_old_logprobs_when_an_earlier_input_moves_the_policy(
    policy: CausalPolicy, sample: Sample
) -> None:
    stranger = TinyLM(hidden_size=32, layers=1, initializer_range=0.2).init("policy", seed=9)
    first, foreign = sample(policy), sample(stranger, peer="peer0001")
    log = train(Grpo(learning_rate=1e-2, steps="per_input"), policy, first, foreign)
    ratios = dict(zip(log.tables["trained"]["id"], log.tables["trained"]["ratio"], strict=True))
    assert all(ratios[id] != 1.0 for id in foreign.values("id"))


def test_rows_of_another_tokenizer_are_left_out_and_counted(policy: CausalPolicy, sample: Sample) -> None:
    other = TinyLM(alphabet="0123456789+=?", hidden_size=32, layers=1).init("policy", seed=0)
    before = policy.digest()
    log = train(Grpo(learning_rate=1e-2), policy, sample(other))
    assert log.metrics["rows_of_another_tokenizer"] == log.metrics["left_out_rows"] == 16
    assert policy.digest() == before
    with pytest.raises(ParamError, match="reference 'policy' reads other tokens"):
        train(Grpo(beta=0.1), policy, sample(policy), reference=other)


def test_a_kl_pulls_towards_the_reference(policy: CausalPolicy, sample: Sample) -> None:
    rows = sample(policy)
    reference = policy.fork("reference")
    train(Grpo(learning_rate=3e-2, epochs=3), policy, rows)
    still = credit(rows, np.zeros(len(rows)))
    node = Grpo(learning_rate=1e-3, beta=1.0, epochs=20)
    first = train(node.model_copy(update={"epochs": 1}), policy, still, reference=reference).metrics["kl"]
    last = train(node, policy, still, reference=reference).metrics["kl"]
    assert 0.0 < last < first


def test_the_learning_rate_follows_the_version(policy: CausalPolicy, sample: Sample) -> None:
    node = Grpo(learning_rate=1e-2, warmup_steps=2, decay="linear", decay_steps=4)
    rates = [train(node, policy, sample(policy, seed=at)).metrics["learning_rate"] for at in range(4)]
    assert rates == pytest.approx([0.5e-2, 1e-2, 1e-2, 0.75e-2])


def game(node: Grpo, *, reference: bool) -> Graph:
    graph = Graph("game")
    policy = graph.carry("policy", TinyLM())
    tasks = graph.add("tasks", ListSource(tasks=[{"question": "1+1=", "answer": "2"}], num_tasks=1))
    answer = graph.add("answer", Answer(num_generations=2), tasks=tasks, policy=policy)
    score = graph.add("score", RegexReward(pattern="2"), rollouts=answer)
    credited = graph.add("credit", GroupAdvantage(), scored=score)
    extra = {"reference": graph.carry("reference", TinyLM())} if reference else {}
    graph.next_round(policy=graph.add("update", node, policy=policy, credited=[credited], **extra))
    return graph


def test_a_kl_without_a_reference_is_found_by_the_check() -> None:
    with pytest.raises(GraphError, match=r"beta is 0\.1, but no `reference` is wired"):
        game(Grpo(beta=0.1), reference=False)
    with pytest.raises(GraphError, match="`reference` is wired, but beta is 0"):
        game(Grpo(), reference=True)
    assert check(game(Grpo(beta=0.1), reference=True)) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"decay": "cosine"}, "needs decay_steps"),
        ({"loss_type": "vespo", "importance": "sequence"}, "not defined for 'sequence'"),
        ({"loss_type": "cispo", "delta": 2.0}, "has no effect on 'cispo'"),
        ({"epsilon_low": 2.0}, "from 0 to 1"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"loss_type": "ppo"}, "loss_type"),
    ],
)
def test_wrong_params_are_found_without_torch(params: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        Grpo(**params)


def test_a_fork_trains_by_itself(policy: CausalPolicy, sample: Sample) -> None:
    rows, before = sample(policy), policy.digest()
    fork = ForkPolicy().run(policy)
    assert fork.digest() == before
    train(Grpo(learning_rate=1e-2), fork, rows)
    assert policy.digest() == before != fork.digest()


def test_gathered_rows_may_be_trained_on() -> None:
    graph = game(Grpo(), reference=False)
    shared = graph.add("shared", Gather(min_peers=1), rows=graph.output("answer"))
    assert str(shared.type) == "PeerRollouts"


@pytest.mark.parametrize("params", [{"top_p": 0.8}, {"top_k": 5, "repetition_penalty": 1.3}, {"min_p": 0.1}])
def test_the_ratio_to_a_truncated_sampler_is_1_until_the_policy_moves(
    policy: CausalPolicy, sample: Sample, params: dict[str, Any]
) -> None:
    first, second = sample(policy, seed=1, **params), sample(policy, seed=2, **params)
    # the second step is off-policy, with the log-probs that were sampled, but nothing has moved
    node = Grpo(learning_rate=1e-12, steps="per_input", beta=0.1)
    log = train(node, policy, first, second, reference=policy.fork("reference"))
    assert policy.version == 2
    assert log.metrics["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert log.metrics["kl"] == pytest.approx(0.0, abs=1e-6)  # the reference has the support of the sampler, too
    np.testing.assert_allclose(log.tables["trained"]["ratio"], 1.0, atol=1e-4)
    whole = [TokenSequence(s.prompt_ids, s.completion_ids) for s in TokenSequence.of(second)]
    untruncated = policy.logprobs(whole, temperatures=second.numpy("temperature")).detach().numpy()
    gaps = [row[: len(old)] - old for row, old in zip(untruncated, second.ragged("logprobs"), strict=True)]
    assert np.abs(np.concatenate(gaps)).max() > 1e-2  # it would not be 1 with the whole distribution


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_truncated_rows_leave_the_loss_and_its_means(policy: CausalPolicy, sample: Sample, loss_type: str) -> None:
    rows, other = sample(policy, max_new_tokens=12), policy.fork("policy")
    columns = {name: rows.table.column(name) for name in rows.table.column_names}
    finish = ["stop" if at % 3 else "length" for at in range(len(rows))]
    rows = Rollouts.from_columns({**columns, "finish_reason": finish}, marks=rows.marks)
    start = weights(policy)
    log = train(Grpo(learning_rate=1e-2, loss_type=loss_type, mask_truncated=True), policy, rows)
    kept = rows.where([finish == "stop" for finish in rows.values("finish_reason")])
    train(Grpo(learning_rate=1e-2, loss_type=loss_type), other, kept)
    assert log.metrics["truncated_rows"] == log.metrics["left_out_rows"] == len(rows) - len(kept) > 0
    assert log.metrics["trained_rows"] == len(kept)
    assert_moved_alike(start, policy, other)
    assert "truncated_rows" not in train(Grpo(), other, rows).metrics
