"""The stand-in for a language model in dry play: a few thousand random weights, and canned replies."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.contract.policy import Completion, Randomness, Sampling
from genrl_graph.nodes.generate import critique, revise
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.reading import EXACT
from genrl_graph.nodes.policy.compute.stop_strings import StopStrings
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.compute.weights import draw_weights
from genrl_graph.nodes.policy.critic_params import CriticParams

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.causal_lm import CausalLM

REPLIES = (
    "The sum is 12 + 30 = 42.\n#### 42",
    "I count them one by one, so it is 7.\n#### 7",
    "<answer>3</answer>",
    "Let me think step by step. <answer>Yes, it is so.</answer>",
    "So the result is \\boxed{\\frac{1}{2}}.",
    "Student #1 made no mistake. Choice: Student #1",
    "Both are right, but the second is clearer.\nChoice: Student #2",
    "Nobody is right. Choice: none",
    "Clear and correct. Score: 8",
    "<think>2 + 2 is 4.</think>\n4",
    "I do not know.",
    "",
)
"""Replies that the library's rewards can and cannot parse."""

CHAT = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}[assistant] "
VOCABULARY, END = 1024, "<end>"
CONTEXT = 1 << 17  # large: this tokenizer needs more tokens, and any prompt that fits the real model must fit here


class StubPolicy(CausalPolicy):
    """A tiny policy with its own tokenizer; it trains like any other, but `generate` returns canned replies."""

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Return replies drawn with `rng` for each prompt, ended by stop strings and by `max_new_tokens`."""
        if isinstance(rng, np.random.Generator):
            drawn = rng.integers(len(REPLIES), size=(len(prompts), num_generations))
        else:
            drawn = np.stack([one.integers(len(REPLIES), size=num_generations) for one in rng])
        return [[self._reply(REPLIES[at], sampling) for at in row] for row in drawn]

    def _twin(self, name: str) -> Self:
        other = super()._twin(name)
        other.counts_tokens = self.counts_tokens
        return other

    def _reply(self, text: str, sampling: Sampling) -> Completion:
        tokenizer: Any = self.hf_tokenizer
        whole = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        if sampling.stop:
            stops = StopStrings(sampling.stop, self.decode, rows=1, silent=[tokenizer.eos_token_id])
            whole = whole[: next((at + 1 for at, id in enumerate(whole) if stops.ends(0, id)), len(whole))]
        ids = np.asarray(whole[: sampling.max_new_tokens], np.int32)
        logprobs = np.full(len(ids), -np.log(self.vocab_size), np.float32)  # random weights are nearly uniform
        finish = "stop" if len(whole) <= sampling.max_new_tokens else "length"
        return Completion(ids, logprobs, self.decode(ids.tolist()), finish)


def stub_policy(
    name: str, *, seed: int, params: "CausalLM | None" = None, local: tuple[ChatTokens, int] | None = None
) -> StubPolicy:
    """Return a stand-in for a language model, which takes a fraction of a second.

    `local` are the tokens and the context length of the model; without them the stand-in has a tokenizer of its own
    (with the chat template of `params` if they have one), and prompts are not limited.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens, context = local or (_stub_tokens(params), CONTEXT)
    config = LlamaConfig(
        vocab_size=max(tokens.tokenizer.get_vocab().values()) + 1,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        eos_token_id=tokens.tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    model: torch.nn.Module = LlamaForCausalLM(config)
    draw_weights(model, seed=seed, name=name, spread=0.02)
    policy = StubPolicy(name, model, tokens, context=context, training=Training(), reading=EXACT)
    policy.counts_tokens = local is not None
    policy.add_critic(CriticParams(), where="dry play")
    return policy


def _stub_tokens(params: "CausalLM | None") -> ChatTokens:
    if params is None or params.chat_template is None:
        return ChatTokens(_tokenizer(), chat_template=CHAT, where="dry play")
    return ChatTokens.of(params, _tokenizer(), where="dry play")


def _tokenizer() -> Any:
    """Train a byte-level BPE tokenizer on the library's prompts; its token counts are near those of a real model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([critique.TEMPLATE, revise.TEMPLATE, *REPLIES], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )
