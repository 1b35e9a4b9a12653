"""Prompts stored once for several rows: attention and samples equal those of rows with copies of the prompt."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from architectures import drawn, gpt2, llama, policy_of, qwen
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import PreTrainedModel

from genrl_graph.contract.policy import Completion, Sampling
from genrl_graph.nodes.policy.compute import sampling
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.shared_prompts import SharedPrompts

SIZE, GROUP, SHARED = 8, 3, 2


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    rows=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    own=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_attention_is_that_of_each_row_alone(lengths: list[int], rows: list[int], own: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return 3 * torch.randn(shape, generator=generator)

    of_row = [row % len(lengths) for row in rows]
    prompts = [(random(SHARED, length, SIZE), random(SHARED, length, SIZE)) for length in lengths]
    query, key, value = (
        random(len(rows), heads, count, SIZE) for heads, count in ((SHARED * GROUP, 1), (SHARED, own), (SHARED, own))
    )
    outputs = SharedPrompts([prompts], torch.tensor(of_row)).attend(0, query, key, value, None)
    for at, prompt in enumerate(of_row):
        whole = [
            torch.cat([before, after[at]], dim=1) for before, after in zip(prompts[prompt], (key, value), strict=True)
        ]
        keys, values = (part.repeat_interleave(GROUP, dim=0) for part in whole)
        expected = torch.nn.functional.scaled_dot_product_attention(query[at], keys, values)
        torch.testing.assert_close(outputs[at], expected, rtol=1e-4, atol=1e-4)


def sampled(policy: CausalPolicy, prompts: list[np.ndarray], **limits: int) -> list[Completion]:
    policy._eos_ids = list(range(3, 12))  # rows end, and leave the batch, at different times
    completions = policy.generate(
        prompts, sampling=Sampling(24), rng=np.random.default_rng(1), **{"max_batch_tokens": 10_000, **limits}
    )
    return [row for rows in completions for row in rows]


@pytest.mark.parametrize("make", [llama, qwen, gpt2])
@pytest.mark.parametrize("kind", ["unrelated", "shared prefix", "twice"])
def test_samples_are_those_of_copies(make: Callable[[], PreTrainedModel], kind: str) -> None:
    rng = np.random.default_rng(0)
    start = drawn(rng, 40)
    prompts = {
        "unrelated": [drawn(rng, 30), drawn(rng, 30)],
        "shared prefix": [np.concatenate([start, drawn(rng, size)]) for size in (1, 9)],
        "twice": [start, drawn(rng, 5), start],
    }[kind]
    shared, copied = (policy_of(make, share=share) for share in (True, False))
    for count in (6, 1):  # with one completion a prompt, each row has its own copy of what was read packed
        ours, theirs = (sampled(policy, prompts, num_generations=count) for policy in (shared, copied))
        assert count == 1 or len({len(row.ids) for row in ours}) > 3
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.ids.tolist() == other.ids.tolist()
            np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-4)


def test_the_cache_holds_a_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    run = sampling._Batch.run

    def watched(batch: Any, uniforms: NDArray[np.float32] | None) -> None:
        prompts = sum(part.nbytes for layer in batch.prompts._layers for pair in layer for part in pair)
        sizes.append((prompts, sum(buffer.nbytes for layer in batch.cache.layers for buffer in layer.buffers)))
        run(batch, uniforms)

    monkeypatch.setattr(sampling._Batch, "run", watched)
    for count in (2, 8):
        sampled(policy_of(share=True), [drawn(np.random.default_rng(0), 100)], num_generations=count)
    (prompts, own), (same, more) = sizes
    assert same == prompts
    assert more == 4 * own


def test_one_completion_a_prompt_keeps_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SharedPrompts", None)  # must not be used
    assert len(sampled(policy_of(share=True), [drawn(np.random.default_rng(0), 20)], num_generations=1)) == 1
