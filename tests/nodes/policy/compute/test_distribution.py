"""Sampled and trained log-probs are those of the distribution that transformers' own logits processors leave."""

from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from genrl_graph.contract import policy as contract
from genrl_graph.contract.policy import Completion, Sampling, TokenSequence
from genrl_graph.nodes.policy.compute import distribution, logprobs
from genrl_graph.nodes.policy.compute.distribution import choose
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM

POLICY = causal(TinyLM(initializer_range=0.2).init("policy", seed=0))
PROMPTS = [POLICY.render([{"role": "user", "content": text}]) for text in ("1+1=", "what is seven?", "a")]
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.7},
    "min-p": {"min_p": 0.2},
    "penalty": {"repetition_penalty": 1.3},
    "reward of repetition": {"repetition_penalty": 0.7, "temperature": 0.6},
    "all": {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
    "greedy": {"temperature": 0.0, "top_k": 5, "repetition_penalty": 1.3},
}


def processors(sampling: Sampling) -> LogitsProcessorList:
    """Return the processors of transformers, in the order in which `generate` applies them."""
    found = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature > 0:
        found.append(TemperatureLogitsWarper(sampling.temperature))
        found += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
        found += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1.0 else []
        found += [MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []
    return found


def generate(policy: CausalPolicy, sampling: Sampling, *, count: int = 6) -> list[tuple[TokenSequence, Completion]]:
    """Sample rows of several lengths."""
    made = policy.generate(
        PROMPTS, num_generations=count, sampling=sampling, rng=np.random.default_rng(0), max_batch_tokens=200
    )
    return [
        (TokenSequence(prompt, row.ids, row.support, sampling.repetition_penalty), row)
        for prompt, rows in zip(PROMPTS, made, strict=True)
        for row in rows
    ]


def expected(
    policy: CausalPolicy, row: TokenSequence, sampling: Sampling
) -> tuple[NDArray[np.float32], list[set[int]]]:
    """Return the log-probs of a row under the processors of transformers, and the ids that they leave at each place."""
    ids = torch.from_numpy(np.concatenate([row.prompt_ids, row.completion_ids]).astype(np.int64))[None]
    values, supports = [], []
    with torch.no_grad():
        logits = policy.model(input_ids=ids).logits
    for at in range(len(row.prompt_ids), ids.shape[1]):
        scores = processors(sampling)(ids[:, :at], logits[:, at - 1].clone())
        values.append(float(scores.log_softmax(-1)[0, ids[0, at]]))
        supports.append(set(torch.isfinite(scores[0]).nonzero()[:, 0].tolist()))
    return np.array(values, np.float32), supports


@pytest.mark.parametrize("way", WAYS)
def test_log_probs_and_support_are_those_of_transformers_processors(way: str) -> None:
    sampling = Sampling(9, **WAYS[way])
    rows = generate(POLICY, sampling)
    assert len({len(row.ids) for _, row in rows}) > 1 or sampling.temperature == 0
    temperatures = np.full(len(rows), sampling.temperature, np.float32)
    trained = POLICY.logprobs([sequence for sequence, _ in rows], temperatures=temperatures).detach().numpy()
    for (sequence, row), mine in zip(rows, trained, strict=True):
        wanted, supports = expected(POLICY, sequence, sampling)
        np.testing.assert_allclose(row.logprobs, wanted, atol=1e-5)
        np.testing.assert_allclose(mine[: len(wanted)], wanted, atol=1e-5)
        if sampling.truncates:
            assert row.support is not None
            parts = np.split(row.support.ids, np.cumsum(row.support.counts)[:-1])
            assert [set(part.tolist()) for part in parts] == supports
        else:
            assert row.support is None


def test_other_weights_keep_the_support_of_the_sampler_and_every_gradient_is_finite() -> None:
    sampling = Sampling(9, top_k=4, repetition_penalty=1.2)
    sequences = [sequence for sequence, _ in generate(POLICY, sampling)]
    other = causal(TinyLM(initializer_range=0.2).init("other", seed=1))
    values = other.logprobs(sequences, temperatures=np.ones(len(sequences), np.float32))
    assert bool(torch.isfinite(values).all())
    for sequence, mine in zip(sequences, values.detach().numpy(), strict=True):
        assert sequence.support is not None
        ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.completion_ids]).astype(np.int64))[None]
        with torch.no_grad():
            logits = other.model(input_ids=ids).logits
        parts = np.split(sequence.support.ids, np.cumsum(sequence.support.counts)[:-1])
        for place, part in enumerate(parts):
            at = len(sequence.prompt_ids) + place
            scores = RepetitionPenaltyLogitsProcessor(1.2)(ids[:, :at], logits[:, at - 1].clone())[0]
            wanted = float(scores[ids[0, at]] - scores[torch.from_numpy(part).long()].logsumexp(-1))
            assert mine[place] == pytest.approx(wanted, abs=1e-5)
    other.backward(values.sum())
    assert all(bool(torch.isfinite(p.grad).all()) for p in other.model.parameters() if p.grad is not None)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = Sampling(9, **WAYS["all"])
    rows = generate(POLICY, sampling)
    sequences = [*(sequence for sequence, _ in rows), TokenSequence(PROMPTS[0], rows[0][0].completion_ids)]
    temperatures = np.array([0.8] * len(rows) + [1.0], np.float32)
    whole = POLICY.logprobs(sequences, temperatures=temperatures)
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 7 * POLICY.vocab_size)
    monkeypatch.setattr(distribution, "_BLOCK", 2 * POLICY.vocab_size)
    again = POLICY.logprobs(sequences, temperatures=temperatures)
    torch.testing.assert_close(again, whole, atol=1e-6, rtol=0)
    for (_, row), (_, other) in zip(rows, generate(POLICY, sampling), strict=True):
        assert row.ids.tolist() == other.ids.tolist()
        np.testing.assert_allclose(row.logprobs, other.logprobs, atol=1e-6)
        assert row.support is not None and other.support is not None
        assert row.support.ids.tolist() == other.support.ids.tolist()


def test_where_too_many_ids_are_left_the_row_says_so_and_log_probs_are_of_the_whole_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distribution, "MOST_SUPPORT", 12)
    assert contract.MOST_SUPPORT > 12
    sampling = Sampling(9, top_p=0.8)
    rows = generate(POLICY, sampling)
    counts = np.concatenate([row.support.counts for _, row in rows if row.support is not None])
    assert 0 < int((counts == 0).sum()) < len(counts)
    assert counts.max() <= 12
    values = POLICY.logprobs([sequence for sequence, _ in rows], temperatures=np.ones(len(rows), np.float32))
    for (sequence, row), mine in zip(rows, values.detach().numpy(), strict=True):
        np.testing.assert_allclose(mine[: len(row.ids)], row.logprobs, atol=1e-5)
        assert row.support is not None
        whole, _ = expected(POLICY, sequence, Sampling(9))
        np.testing.assert_allclose(row.logprobs[row.support.counts == 0], whole[row.support.counts == 0], atol=1e-5)


def test_ties_stay_in_the_support() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    drawn = {int(choose(logits, torch.tensor([u]), Sampling(1, top_k=2)).token) for u in np.linspace(0, 0.999, 40)}
    assert drawn == {0, 1, 2}


def test_ids_that_the_tokenizer_does_not_know_are_in_no_distribution(tmp_path: Any) -> None:
    POLICY.export(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.resize_token_embeddings(160)
    policy = CausalPolicy("padded", model.eval(), POLICY.tokens, context=256, training=POLICY._training)
    known = POLICY.vocab_size
    assert policy.unknown_ids == frozenset(range(known, 160))
    for sampling in (Sampling(9), Sampling(9, top_p=0.9, temperature=1.5)):
        rows = generate(policy, sampling)
        temperatures = np.full(len(rows), sampling.temperature, np.float32)
        trained = policy.logprobs([sequence for sequence, _ in rows], temperatures=temperatures).detach().numpy()
        for (_, row), mine in zip(rows, trained, strict=True):
            np.testing.assert_allclose(mine[: len(row.ids)], row.logprobs, atol=1e-5)
    every = [TokenSequence(PROMPTS[0], np.array([id], np.int32)) for id in range(known)]
    total = policy.logprobs(every, temperatures=np.ones(known, np.float32)).exp().sum()
    assert float(total.detach()) == pytest.approx(1.0, abs=1e-5)
