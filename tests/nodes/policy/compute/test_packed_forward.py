"""Packed forward passes give the log-probs, gradients, samples and steps of padded rows."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import VOCABULARY, drawn, gpt2, llama, policy_of, qwen, rows_of, windowed
from numpy.typing import NDArray
from transformers import LlamaForCausalLM, PreTrainedModel

from genrl_graph.contract.policy import Sampling
from genrl_graph.nodes.policy.compute import packed_forward
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.packed_forward import ATTENTION


def gradients(policy: CausalPolicy, loss: torch.Tensor) -> torch.Tensor:
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, parameters)])


def attention_of(policy: CausalPolicy) -> str:
    """Return the name of the attention that the policy computes with."""
    model: Any = policy.model
    return model.config._attn_implementation


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("activation_bytes", [math.inf, 200_000.0, 0.0])
@pytest.mark.parametrize("make", [llama, qwen, gpt2, windowed])
def test_values_and_gradients_are_those_of_padded_rows(
    make: Callable[[], PreTrainedModel], activation_bytes: float, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_forward, "TILED", {"cpu"} if tiled else set())
    rows = rows_of()
    temperatures = np.linspace(0.5, 1.5, len(rows)).astype(np.float32)
    results = []
    for share in (True, False):
        policy = policy_of(make, share=share, activation_bytes=activation_bytes)
        logprobs = policy.logprobs(rows, temperatures=temperatures)
        results.append((logprobs.detach(), gradients(policy, logprobs.square().sum())))
        packs = share and make is not windowed
        assert (attention_of(policy) == ATTENTION) == packs, "a window cannot be packed"
    (shared, ours), (padded, theirs) = results
    torch.testing.assert_close(shared, padded, rtol=1e-5, atol=1e-5)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_what_rows_share_counts_once_in_the_budget() -> None:
    rows, policy, padded = rows_of()[:4], policy_of(share=True), policy_of(share=False)
    unique = len(rows[0].prompt_ids) + sum(len(row.completion_ids) for row in rows)
    assert len(policy.micro_batches(rows, max_batch_tokens=unique)) == 1
    assert len(padded.micro_batches(rows, max_batch_tokens=unique)) > 1


@pytest.mark.parametrize("make", [llama, gpt2])
def test_samples_are_the_same_tokens_with_the_same_logprobs(make: Callable[[], PreTrainedModel]) -> None:
    rng = np.random.default_rng(0)
    start = drawn(rng, 40)
    prompts = [np.concatenate([start, drawn(rng, size)]) for size in (1, 3, 8)] + [drawn(rng, 5), start]
    samples = []
    for share in (True, False):
        completions = policy_of(make, share=share).generate(
            prompts,
            num_generations=3,
            sampling=Sampling(12),
            rng=np.random.default_rng(1),
            max_batch_tokens=10_000,
        )
        samples.append([row for rows in completions for row in rows])
    for ours, theirs in zip(*samples, strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist()
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_what_is_sampled_has_the_distribution_of_plain_calls(share: bool) -> None:
    rng, samples = np.random.default_rng(3), 5000
    start = drawn(rng, 40)
    prompts = [np.concatenate([start, drawn(rng, size)]) for size in (1, 6)]
    policy, plain = policy_of(share=share), policy_of(share=False).model
    policy._eos_ids = []
    completions = policy.generate(
        prompts, num_generations=samples, sampling=Sampling(2), rng=np.random.default_rng(4), max_batch_tokens=10**6
    )
    for prompt, rows in zip(prompts, completions, strict=True):
        tokens = np.stack([row.ids for row in rows])
        first = next_token(plain, prompt[None])[0]
        every = np.concatenate([np.tile(prompt, (VOCABULARY, 1)), np.arange(VOCABULARY)[:, None]], axis=1)
        for place, exact in enumerate((first, first @ next_token(plain, every))):
            assert chi_square(np.bincount(tokens[:, place], minlength=VOCABULARY), exact) > 1e-3


def next_token(model: torch.nn.Module, ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """The distribution of the token behind each row, by a plain call."""
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids.astype(np.int64))).logits[:, -1].double().softmax(-1).numpy()


def chi_square(counts: NDArray[np.integer], exact: NDArray[np.float64]) -> float:
    """The chance that a sample lies at least so far from its distribution; rare tokens are taken together."""
    expected = exact * counts.sum()
    frequent = expected >= 10
    bins = [
        (counts[frequent], expected[frequent]),
        (counts[~frequent].sum(keepdims=True), expected[~frequent].sum(keepdims=True)),
    ]
    observed, expected = (np.concatenate(parts) for parts in zip(*bins, strict=True))
    distance = float(((observed - expected) ** 2 / expected).sum())
    return float(torch.special.gammaincc(torch.tensor((len(observed) - 1) / 2), torch.tensor(distance / 2)))


def test_a_copy_shares_as_well_and_plain_calls_are_those_of_transformers() -> None:
    policy, plain = policy_of(share=True), policy_of(share=False)
    policy.logprobs(rows_of(), temperatures=np.ones(13, np.float32))
    twin = policy.fork("twin")
    assert attention_of(twin) == ATTENTION
    ids = torch.arange(3, 33).reshape(2, 15)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    for each_mask in (None, mask):
        ours, theirs = (each.model(input_ids=ids, attention_mask=each_mask).logits for each in (twin, plain))
        torch.testing.assert_close(ours, theirs)


def test_a_saved_model_says_nothing_of_it(tmp_path: Path) -> None:
    policy = policy_of(share=True)
    policy.logprobs(rows_of(), temperatures=np.ones(13, np.float32))
    policy.export(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
