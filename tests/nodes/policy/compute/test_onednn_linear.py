"""Prepacked linear layers: products equal autocast's, weights stay shared, and without support nothing changes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from architectures import drawn, gpt2, llama, policy_of, qwen
from torch import nn
from transformers import PreTrainedModel

from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.nodes.policy.compute import onednn_linear as module
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.onednn_linear import Prepacked, can_prepack, prepacked

needs_it = pytest.mark.skipif(not can_prepack(), reason="this torch has no such layout for this processor")


def sampled(policy: CausalPolicy, seed: int = 0) -> tuple[list[TokenSequence], np.ndarray]:
    """Sample rows; return them and the sampler's log-probs [rows, tokens]."""
    policy._eos_ids = []
    prompts = [drawn(np.random.default_rng(seed), size) for size in (40, 31)]
    completions = policy.generate(
        prompts, num_generations=3, sampling=Sampling(12), rng=np.random.default_rng(seed), max_batch_tokens=10_000
    )
    rows = [(prompt, row) for prompt, group in zip(prompts, completions, strict=True) for row in group]
    return [TokenSequence(prompt, row.ids) for prompt, row in rows], np.stack([row.logprobs for _, row in rows])


@needs_it
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_that_of_autocast(rows: int, biased: bool) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(48, 80, bias=biased), torch.randn(2, rows, 48)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(inputs)
        product = Prepacked(layer)(inputs)
    assert product.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(product, expected, rtol=1e-2, atol=1e-2)


@needs_it
@pytest.mark.parametrize("make", [llama, qwen, gpt2])
def test_a_copy_computes_the_same_from_the_same_weights(make: Callable[[], PreTrainedModel]) -> None:
    model = make().eval()
    copied = prepacked(model)
    ids = torch.from_numpy(drawn(np.random.default_rng(0), 50).astype(np.int64))[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, logits = (each(input_ids=ids, use_cache=False).logits for each in (model, copied))
    torch.testing.assert_close(logits, expected, rtol=5e-2, atol=5e-2)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in copied.parameters()} == own
    assert not any(isinstance(layer, Prepacked) for layer in model.modules())


@needs_it
def test_a_policy_samples_from_it_in_bfloat16_only() -> None:
    assert any(isinstance(layer, Prepacked) for layer in policy_of(share=True, bfloat16=True)._sampler().modules())
    plain = policy_of(share=True)
    assert plain._sampler() is plain.model


@pytest.mark.parametrize("share", [True, False])
def test_samples_have_the_log_probs_of_a_training_pass_also_after_a_step(share: bool) -> None:
    policy = policy_of(share=share, bfloat16=True)
    for iteration in range(2):
        rows, of_sampler = sampled(policy, seed=iteration)
        logprobs = policy.logprobs(rows, temperatures=np.ones(len(rows), np.float32))
        assert np.abs(logprobs.detach().numpy() - of_sampler).max() < 0.05
        before = logprobs.detach().clone()
        policy.backward(-logprobs.mean())
        policy.step(learning_rate=0.02, max_grad_norm=10.0)
    after = policy.logprobs(rows, temperatures=np.ones(len(rows), np.float32)).detach()
    assert (after - before).abs().max() > 0.2, "the second iteration would pass with the old weights, too"


def test_without_the_layout_the_model_itself_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(share=True, bfloat16=True)
    with_it = sampled(policy)[1]
    monkeypatch.setattr(module, "can_prepack", lambda: False)
    assert policy._sampler() is policy.model
    assert np.abs(sampled(policy)[1][:, 0] - with_it[:, 0]).max() < 0.05


@pytest.mark.parametrize("fault", [AttributeError, RuntimeError])
def test_an_operator_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, fault: type[Exception]) -> None:
    def missing(*args: object) -> None:
        raise fault("no such operator")

    monkeypatch.setattr(module, "Prepacked", missing)
    assert not can_prepack.__wrapped__()
