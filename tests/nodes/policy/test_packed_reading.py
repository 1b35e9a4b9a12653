"""Reading packed sequences gives what reading them one by one gives: values, gradients, samples and steps."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from genrl_graph.nodes.policy.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.handle import CausalPolicy, Training
from genrl_graph.nodes.policy.packed_reading import ATTENTION
from genrl_graph.nodes.policy.tiny_lm import CONTENTS, PRINTABLE, SPECIAL, character_tokenizer
from genrl_graph.policy import Sampling, TokenSequence

VOCABULARY = len(PRINTABLE) + len(SPECIAL)
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256, "initializer_range": 0.2}
SIZES |= {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def qwen() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8))


def gpt2() -> PreTrainedModel:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
    sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, eos_token_id=1, bos_token_id=1, **sizes))


def windowed() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=24))


def policy_of(make=llama, *, share: bool, **training: bool) -> CausalPolicy:
    torch.manual_seed(0)
    tokens = ChatTokens(character_tokenizer(PRINTABLE), chat_template=CONTENTS, where="test")
    return CausalPolicy("p", make(), tokens, context=256, training=Training(share_prefixes=share, **training))


def rows_of(seed: int = 0) -> list[TokenSequence]:
    """Groups of 4 on prompts of which two have a long beginning in common, one row without a completion."""
    rng = np.random.default_rng(seed)
    start = drawn(rng, 30)
    prompts = [np.concatenate([start, drawn(rng, 9)]), np.concatenate([start, drawn(rng, 4)]), drawn(rng, 20)]
    rows = [TokenSequence(prompt, drawn(rng, int(rng.integers(1, 24)))) for prompt in prompts for _ in range(4)]
    return [*rows, TokenSequence(prompts[0], drawn(rng, 0))]


def drawn(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    return rng.integers(3, VOCABULARY, count).astype(np.int32)


def gradients(policy: CausalPolicy, loss: torch.Tensor) -> torch.Tensor:
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("make", [llama, qwen, gpt2, windowed])
def test_values_and_gradients_are_those_of_padded_rows(make, checkpointing: bool) -> None:
    rows = rows_of()
    temperatures = np.linspace(0.5, 1.5, len(rows)).astype(np.float32)
    found = []
    for share in (True, False):
        policy = policy_of(make, share=share, gradient_checkpointing=checkpointing)
        logprobs = policy.logprobs(rows, temperatures=temperatures)
        found.append((logprobs.detach(), gradients(policy, logprobs.square().sum())))
        packs = share and make is not windowed
        assert (policy.model.config._attn_implementation == ATTENTION) == packs, "a window cannot be packed"
    (shared, ours), (padded, theirs) = found
    torch.testing.assert_close(shared, padded, rtol=1e-5, atol=1e-5)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_what_rows_share_counts_once_in_the_budget() -> None:
    rows, policy, padded = rows_of()[:4], policy_of(share=True), policy_of(share=False)
    unique = len(rows[0].prompt_ids) + sum(len(row.completion_ids) for row in rows)
    assert len(policy.micro_batches(rows, max_batch_tokens=unique)) == 1
    assert len(padded.micro_batches(rows, max_batch_tokens=unique)) > 1


@pytest.mark.parametrize("make", [llama, gpt2])
def test_samples_are_the_same_tokens_with_the_same_logprobs(make) -> None:
    rng = np.random.default_rng(0)
    start = drawn(rng, 40)
    prompts = [np.concatenate([start, drawn(rng, size)]) for size in (1, 3, 8)] + [drawn(rng, 5), start]
    made = []
    for share in (True, False):
        given = policy_of(make, share=share).generate(
            prompts,
            num_generations=3,
            sampling=Sampling(12),
            rng=np.random.default_rng(1),
            max_batch_tokens=10_000,
        )
        made.append([row for rows in given for row in rows])
    for ours, theirs in zip(*made, strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist()
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


def test_a_copy_shares_as_well_and_plain_calls_are_those_of_transformers() -> None:
    policy, plain = policy_of(share=True), policy_of(share=False)
    policy.logprobs(rows_of(), temperatures=np.ones(13, np.float32))
    twin = policy.fork("twin")
    assert twin.model.config._attn_implementation == ATTENTION
    ids = torch.arange(3, 33).reshape(2, 15)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    for given in (None, mask):
        ours, theirs = (each.model(input_ids=ids, attention_mask=given).logits for each in (twin, plain))
        torch.testing.assert_close(ours, theirs)


def test_a_saved_model_says_nothing_of_it(tmp_path) -> None:
    policy = policy_of(share=True)
    policy.logprobs(rows_of(), temperatures=np.ones(13, np.float32))
    policy.export(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
