"""Importance corrections of updates, on rows with another sampler's log-probs, against loops in plain Python."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from fixture_types import Sample

from genrl_graph import Log, ParamError, Rollouts, TextPolicy, credit
from genrl_graph.edge_types.edge_type import CREDITED
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.steps.correction_config import Correction


def perturbed(rows: Rollouts, spread: float, seed: int = 0) -> Rollouts:
    """Return the rows as an engine would have sampled them whose log-probs differ by normal noise."""
    rng = np.random.default_rng(seed)
    noisy = [(row + rng.normal(0, spread, len(row))).astype(np.float32) for row in rows.ragged("logprobs")]
    columns = {name: rows.table.column(name) for name in rows.table.column_names}
    return Rollouts.from_columns(columns | {"logprobs": noisy}, marks=[CREDITED])


def train(node: Grpo, policy: TextPolicy, rows: Rollouts) -> Mapping[str, float]:
    log = Log()
    node.run(policy, [rows], rng=np.random.default_rng(0), log=log, peer="peer0000")
    return log.metrics


def read(policy: CausalPolicy, row: Mapping[str, Any]) -> torch.Tensor:
    """Log-probs of one row by a plain call."""
    ids, start = torch.tensor([row["prompt_ids"] + row["completion_ids"]]), len(row["prompt_ids"])
    logits = policy.model(input_ids=ids).logits[0, start - 1 : -1].float()
    return logits.log_softmax(-1)[range(ids.shape[1] - start), ids[0, start:]]


def weights_of(current: list[float], sampled: list[float], correction: Correction) -> list[float | None]:
    """The weight of each token, None where it is rejected."""
    gaps = [c - s for c, s in zip(current, sampled, strict=True)]
    raw = [math.exp(gap) for gap in gaps] if correction.level == "token" else [math.exp(sum(gaps))] * len(gaps)
    if correction.method == "tis":
        return [min(max(weight, correction.low), correction.high) for weight in raw]
    return [weight if correction.low <= weight <= correction.high else None for weight in raw]


def plain_loss(policy: CausalPolicy, rows: Rollouts, loss_type: str, correction: Correction) -> torch.Tensor:
    """The corrected loss at ratio 1, row by row: means leave rejected tokens, and sequences without any other, out."""
    parts: list[tuple[torch.Tensor, int]] = []
    for row in rows.rows():
        logprobs = read(policy, row)
        weights = weights_of(logprobs.tolist(), row["logprobs"], correction)
        kept = [at for at, weight in enumerate(weights) if weight is not None]
        ratio = (logprobs - logprobs.detach()).exp()
        factors = torch.tensor([weights[at] for at in kept])
        parts.append((-(ratio[kept] * factors).sum() * row["advantage"], len(kept)))
    tokens, sequences = sum(count for _, count in parts), sum(count > 0 for _, count in parts)
    if loss_type == "grpo":
        return torch.stack([loss / max(count, 1) for loss, count in parts]).sum() / sequences
    return torch.stack([loss for loss, _ in parts]).sum() / {"dapo": tokens, "dr_grpo": sequences * 256}[loss_type]


def gradient(policy: CausalPolicy, node: Grpo, rows: Rollouts) -> tuple[torch.Tensor, float]:
    """The gradient of an update's first step, and its loss."""
    seen: list[torch.Tensor] = []

    def step(**options: float) -> float:
        seen.append(torch.cat([w.grad.flatten() for w in policy.model.parameters() if w.grad is not None]))
        policy.stepped(1)
        return 1.0

    policy.step = step  # type: ignore[method-assign]
    loss = train(node, policy, rows)["loss"]
    return seen[0], loss


CASES = [
    ("tis", "token", 0.8, 1.2),
    ("tis", "sequence", None, 1.5),
    ("mis", None, None, None),
    ("icepop", None, 0.8, 1.25),
    *(
        pytest.param(*case, marks=pytest.mark.long)
        for case in (
            ("tis", None, None, None),
            ("mis", "token", 0.5, 1.3),
            ("mis", "sequence", 0.7, 1.5),
            ("icepop", None, None, None),
            ("icepop", "sequence", 0.6, 1.6),
        )
    ),
]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize(("method", "level", "low", "high"), CASES)
def test_losses_and_gradients_are_those_of_plain_loops(
    policy: CausalPolicy, sample: Sample, method: Any, level: Any, low: float | None, high: float | None, loss_type: Any
) -> None:
    rows = perturbed(sample(policy), 0.5)
    correction = Correction.of(method, level, low, high)
    expected = plain_loss(policy, rows, loss_type, correction)
    theirs = torch.cat([g.flatten() for g in torch.autograd.grad(expected, list(policy.model.parameters()))])
    node = Grpo(
        loss_type=loss_type,
        importance_correction=method,
        correction_level=level,
        correction_low=low,
        correction_high=high,
        max_batch_tokens=60,
    )
    ours, loss = gradient(policy, node, rows)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_without_a_gap_a_correction_changes_nothing(policy: CausalPolicy, sample: Sample) -> None:
    rows, other = sample(policy), policy.fork("policy")
    plain, _ = gradient(policy, Grpo(), rows)
    corrected, _ = gradient(other, Grpo(importance_correction="icepop"), rows)
    torch.testing.assert_close(corrected, plain, rtol=1e-4, atol=1e-5)


def test_later_steps_are_corrected_from_the_first_weights(policy: CausalPolicy, sample: Sample) -> None:
    """The ratio leads from the weights before the first step, the correction from the sampler to these."""
    rows, other = perturbed(sample(policy), 0.5), policy.fork("policy")
    before = {row["id"]: read(policy, row).detach() for row in rows.rows()}
    train(Grpo(learning_rate=1e-2, epochs=2, importance_correction="tis"), policy, rows)
    optimizer = torch.optim.AdamW(list(other.model.parameters()), lr=1e-2, weight_decay=0.0)
    start = torch.cat([w.detach().flatten() for w in other.model.parameters()])
    tokens = sum(len(ids) for ids in rows.values("completion_ids"))
    for _ in range(2):
        loss = torch.zeros(())
        for row in rows.rows():
            logprobs, old = read(other, row), before[row["id"]]
            weight = (old - torch.tensor(row["logprobs"])).exp().clamp(max=2.0)
            ratio = (logprobs - old).exp()
            least = torch.minimum(ratio * row["advantage"], ratio.clamp(0.8, 1.28) * row["advantage"])
            loss = loss - (weight * least).sum() / tokens
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(other.model.parameters()), 1.0)
        optimizer.step()
    ours = torch.cat([w.detach().flatten() for w in policy.model.parameters()]) - start
    theirs = torch.cat([w.detach().flatten() for w in other.model.parameters()]) - start
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


@pytest.mark.parametrize("method", ["none", "tis", "icepop"])
def test_the_gap_is_measured_with_and_without_a_correction(policy: CausalPolicy, sample: Sample, method: Any) -> None:
    rows = perturbed(sample(policy), 0.3)
    gaps = [(read(policy, row).detach() - torch.tensor(row["logprobs"])).double().numpy() for row in rows.rows()]
    flat = np.concatenate(gaps)
    metrics = train(Grpo(importance_correction=method), policy, rows)
    assert metrics["log_ratio_mean"] == pytest.approx(np.abs(flat).mean(), abs=1e-5)
    assert metrics["log_ratio_max"] == pytest.approx(np.abs(flat).max(), abs=1e-5)
    weights = np.exp(flat)
    size = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
    assert metrics["effective_sample_size"] == pytest.approx(size, abs=1e-5)
    if method == "icepop":
        assert metrics["rejected_tokens"] == pytest.approx(((weights < 0.5) | (weights > 5)).mean(), abs=1e-6)


def test_the_effective_sample_size_of_sequences_is_that_of_their_products(policy: CausalPolicy, sample: Sample) -> None:
    rows = perturbed(sample(policy), 0.3)
    weights = np.exp([float((read(policy, r).detach() - torch.tensor(r["logprobs"])).sum()) for r in rows.rows()])
    metrics = train(Grpo(importance_correction="mis"), policy, rows)
    assert metrics["effective_sample_size"] == pytest.approx(weights.sum() ** 2 / (16 * (weights**2).sum()), abs=1e-4)


def test_rows_of_other_peers_and_older_weights_do_not_count_as_a_gap(policy: CausalPolicy, sample: Sample) -> None:
    rows = perturbed(sample(policy, peer="peer0001"), 2.0)
    metrics = train(Grpo(importance_correction="tis"), policy, rows)
    assert "log_ratio_mean" not in metrics
    later = policy.fork("policy")
    own = perturbed(sample(later), 2.0)
    later.stepped(1)
    assert "log_ratio_mean" not in train(Grpo(), later, own)


def test_if_all_is_rejected_nothing_is_trained(policy: CausalPolicy, sample: Sample) -> None:
    before = policy.digest()
    metrics = train(Grpo(importance_correction="mis"), policy, perturbed(sample(policy), 40.0, seed=3))
    assert metrics["rejected_tokens"] > 0.3
    rows = sample(policy)
    far = [np.full(len(row), -1e3, np.float32) for row in rows.ragged("logprobs")]
    columns = {name: rows.table.column(name) for name in rows.table.column_names}
    before = policy.digest()
    metrics = train(
        Grpo(importance_correction="icepop"),
        policy,
        Rollouts.from_columns(columns | {"logprobs": far}, marks=[CREDITED]),
    )
    assert metrics["rejected_tokens"] == 1.0 and metrics["optimiser_steps"] == 0 and policy.digest() == before


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"correction_low": 0.5}, "correction_low: 0.5 has no effect; set importance_correction to tis, mis or icepop"),
        ({"importance_correction": "tis", "correction_high": 0.9}, "correction_high: 0.9 must be a number from 1"),
        ({"importance_correction": "tis", "correction_low": 1.5}, "correction_low: 1.5 must be a number from 0 to 1"),
        ({"importance_correction": "vis"}, "importance_correction: input should be 'none', 'tis', 'mis' or 'icepop'"),
    ],
)
def test_wrong_params_say_what_to_set(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError) as caught:
        Grpo(**params)
    assert message in str(caught.value)


def test_credit_of_zero_counts_in_the_means_and_can_be_rejected(policy: CausalPolicy, sample: Sample) -> None:
    rows = perturbed(sample(policy), 0.5)
    advantages = rows.numpy("advantage").copy()
    advantages[::2] = 0.0
    rows = credit(rows, advantages)
    correction = Correction.of("icepop", None, 0.8, 1.25)
    expected = plain_loss(policy, rows, "dapo", correction)
    node = Grpo(importance_correction="icepop", correction_low=0.8, correction_high=1.25)
    _, loss = gradient(policy, node, rows)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
