"""Small random models of several architectures as policies, and rows that have much in common."""

from collections.abc import Callable
from typing import Any

import numpy as np
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

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.tiny_lm import CONTENTS, PRINTABLE, SPECIAL, character_tokenizer

VOCABULARY = len(PRINTABLE) + len(SPECIAL)
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256, "initializer_range": 0.2}
SIZES |= {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def qwen() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8))


def gpt2(positions: int = 256) -> PreTrainedModel:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": positions, "initializer_range": 0.2}
    sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, eos_token_id=1, bos_token_id=1, **sizes))


def windowed() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=24))


def causal(policy: object) -> CausalPolicy:
    """Return the policy that `init` of a model made, as the type whose inside tests look at."""
    assert isinstance(policy, CausalPolicy)
    return policy


def policy_of(
    make: Callable[[], PreTrainedModel] = llama, *, share: bool, context: int = 256, **training: Any
) -> CausalPolicy:
    torch.manual_seed(0)
    tokens = ChatTokens(character_tokenizer(PRINTABLE), chat_template=CONTENTS, where="test")
    return CausalPolicy("p", make(), tokens, context=context, training=Training(share_prefixes=share, **training))


def rows_of(seed: int = 0) -> list[TokenSequence]:
    """Groups of 4 on prompts of which two have a long beginning in common, one row without a completion."""
    rng = np.random.default_rng(seed)
    start = drawn(rng, 30)
    prompts = [np.concatenate([start, drawn(rng, 9)]), np.concatenate([start, drawn(rng, 4)]), drawn(rng, 20)]
    rows = [TokenSequence(prompt, drawn(rng, int(rng.integers(1, 24)))) for prompt in prompts for _ in range(4)]
    return [*rows, TokenSequence(prompts[0], drawn(rng, 0))]


def drawn(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    return rng.integers(3, VOCABULARY, count).astype(np.int32)
