import numpy as np
import pytest
import torch
from architectures import causal
from numpy.typing import NDArray
from transformers import GraniteConfig, GraniteForCausalLM

from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.logprobs import completion_logprobs, has_plain_head
from genrl_graph.nodes.policy.tiny_lm import TinyLM

POLICY = causal(TinyLM(initializer_range=0.2).init("policy", seed=0))


def sampled(policy: CausalPolicy, temperature: float = 1.0) -> tuple[list[TokenSequence], list[NDArray[np.float32]]]:
    prompts = [policy.render([{"role": "user", "content": text}]) for text in ("1+1=", "what is seven?", "a")]
    sampling = Sampling(9, temperature=temperature)
    rng = np.random.default_rng(0)
    completions = policy.generate(prompts, num_generations=6, sampling=sampling, rng=rng, max_batch_tokens=200)
    rows = [(prompt, row) for prompt, rows in zip(prompts, completions, strict=True) for row in rows]
    sequences = [TokenSequence(prompt, row.ids[: 3 + at % 7]) for at, (prompt, row) in enumerate(rows)]
    return sequences, [row.logprobs[: 3 + at % 7] for at, (_, row) in enumerate(rows)]


def reference(model: torch.nn.Module, sequence: TokenSequence, temperature: float) -> torch.Tensor:
    ids = torch.tensor(np.concatenate([sequence.prompt_ids, sequence.completion_ids])[None].astype(np.int64))
    logits = model(input_ids=ids).logits[0, len(sequence.prompt_ids) - 1 : -1].double() / temperature
    return logits.log_softmax(-1)[range(len(sequence.completion_ids)), ids[0, len(sequence.prompt_ids) :]]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_they_are_the_samplers(temperature: float) -> None:
    sequences, expected = sampled(POLICY, temperature)
    values = POLICY.logprobs(sequences, temperatures=np.full(len(sequences), temperature, np.float32))
    assert values.dtype == torch.float32
    assert values.shape == (18, max(len(row) for row in expected))
    for row, logprobs in zip(values.detach().numpy(), expected, strict=True):
        np.testing.assert_allclose(row[: len(logprobs)], logprobs, atol=1e-4)
        assert (row[len(logprobs) :] == 0).all()


def test_under_bfloat16_they_are_near_the_samplers_and_near_float32() -> None:
    policy = causal(TinyLM(initializer_range=0.2, compute_dtype="bfloat16").init("policy", seed=0))
    assert policy.digest() == POLICY.digest()
    sequences, expected = sampled(policy)
    ones = np.ones(len(sequences), np.float32)
    with torch.no_grad():
        values, exact = policy.logprobs(sequences, temperatures=ones), POLICY.logprobs(sequences, temperatures=ones)
    assert values.dtype == torch.float32
    for row, logprobs in zip(values.numpy(), expected, strict=True):
        np.testing.assert_allclose(row[: len(logprobs)], logprobs, atol=0.1)
    assert 0 < float((values - exact).abs().max()) < 0.2


def test_each_row_has_its_own_temperature_and_gradient() -> None:
    sequences, _ = sampled(POLICY)
    temperatures = np.linspace(0.5, 2.0, len(sequences)).astype(np.float32)
    values = POLICY.logprobs(sequences, temperatures=temperatures)
    rows = [reference(POLICY.model, s, float(t)) for s, t in zip(sequences, temperatures, strict=True)]
    for row, expected in zip(values.tolist(), rows, strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected.tolist(), atol=1e-4)
    parameters = list(POLICY.model.parameters())
    ours = torch.autograd.grad(values.square().sum(), parameters)
    theirs = torch.autograd.grad(torch.stack([row.square().sum() for row in rows]).sum(), parameters)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


def test_a_large_vocabulary_in_blocks_has_the_same_values_and_gradients() -> None:
    node = TinyLM(alphabet="".join(map(chr, range(0x4E00, 0x9E00))), hidden_size=8, heads=2, layers=1)
    policy = causal(node.init("p", seed=0))
    rng = np.random.default_rng(0)
    draw = [rng.integers(3, 20000, size) for size in rng.integers(20, 60, 60)]
    sequences = [TokenSequence(ids[:4].astype(np.int32), ids[4:].astype(np.int32)) for ids in draw]
    assert sum(len(s.completion_ids) for s in sequences) > 1638  # two blocks
    ones, parameters = np.ones(len(sequences), np.float32), list(policy.model.parameters())
    blocks = policy.logprobs(sequences, temperatures=ones)
    whole = completion_logprobs(policy.model, sequences, ones, plain_head=False)
    torch.testing.assert_close(blocks, whole, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(policy.logprobs(sequences, temperatures=ones), whole, rtol=1e-4, atol=1e-4)
    ours, theirs = (torch.autograd.grad(values.sum(), parameters) for values in (blocks, whole))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


def test_a_scaled_head_is_noticed() -> None:
    config = GraniteConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        logits_scaling=3.0,
    )
    torch.manual_seed(0)
    model = GraniteForCausalLM(config).eval()
    sequences = [TokenSequence(np.array([5, 6, 7], np.int32), np.array([8, 9], np.int32))]
    sequences.append(TokenSequence(np.array([5], np.int32), np.array([3, 2, 1], np.int32)))
    assert not has_plain_head(model)
    assert has_plain_head(POLICY.model)
    values = completion_logprobs(model, sequences, np.ones(2, np.float32), plain_head=False)
    for row, sequence in zip(values.tolist(), sequences, strict=True):
        expected = reference(model, sequence, 1.0).tolist()
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-5)


def test_no_tokens_give_no_columns() -> None:
    empty = TokenSequence(np.array([5], np.int32), np.empty(0, np.int32))
    assert POLICY.logprobs([empty], temperatures=np.ones(1, np.float32)).shape == (1, 0)
    assert POLICY.logprobs([], temperatures=np.ones(0, np.float32)).shape == (0, 0)
