"""The live policy of a causal language model: samples, computes log-probs, saves, exports and forks."""

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.contract.policy import Completion, Randomness, Sampling, Support, TokenSequence
from genrl_graph.contract.tool_chat import ToolChat, ToolSchema
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.policy.compute import exported
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.critic import Critic
from genrl_graph.nodes.policy.compute.kv_session import KvSession
from genrl_graph.nodes.policy.compute.logprobs import logprobs_by_group, vocab_size
from genrl_graph.nodes.policy.compute.onednn_linear import prepacked
from genrl_graph.nodes.policy.compute.prompt_images import PromptImages
from genrl_graph.nodes.policy.compute.quiet_libraries import without_progress
from genrl_graph.nodes.policy.compute.reading import Reading
from genrl_graph.nodes.policy.compute.reading_policy import ReadingPolicy
from genrl_graph.nodes.policy.compute.sampling import Limits, sample_completions
from genrl_graph.nodes.policy.compute.tool_tokens import tool_tokens
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.compute.turn_tokens import TurnTokens
from genrl_graph.nodes.policy.compute.weights import OPTIMIZER, WEIGHTS, restore_optimizer, save_version, save_weights
from genrl_graph.nodes.policy.critic_params import CriticParams

if TYPE_CHECKING:
    from genrl_graph.nodes.policy.engine.sampler import VllmSampler

M = TypeVar("M", bound=torch.nn.Module)

FROZEN = "frozen.json"
MEASURED = ("reading", "_has_plain_head", "_shares", "_saved_token", "_unknown")
"""Cached properties that are measured on a model and hold for its copies, too."""


class CausalPolicy(ReadingPolicy):
    """A policy over a Hugging Face causal language model without dropout.

    `tokens` turns chats into ids and ids into text. External trainers such as TRL's use `model`, `hf_tokenizer` and
    `optimizer()` instead of `backward` and `step`. They must leave `model` in evaluation mode, as they find it, and
    call `stepped(n)` after `n` optimiser steps. With an `engine` a server samples, copies of this policy included.
    """

    weights_file = WEIGHTS
    adapts: ClassVar[bool] = False  # whether `weights` are those of an adapter on `base_model`

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        tokens: ChatTokens,
        *,
        context: int,
        training: Training,
        reading: Reading | None = None,
    ) -> None:
        super().__init__(name, model, training)
        if reading is not None:  # known, so that the model needs no probes
            self.__dict__["reading"] = reading
        self.context_length, self.tokenizer_fingerprint = context, tokens.fingerprint
        self.vocab_size = vocab_size(model)
        self.tokens = tokens
        self.unknown_ids = tokens.unknown_ids(self.vocab_size)
        self._eos_ids = _eos_ids(model, tokens)
        self._session: KvSession | None = None
        self.engine: VllmSampler | None = None

    @property
    def computes(self) -> str:
        """The precision of matrix products, the kind of device, and the engine that samples, if there is one."""
        own = f"{'bfloat16' if self._training.bfloat16 else 'float32'} on {self.device.type}"
        return own if self.engine is None else f"{own}, sampled by {self.engine.name}"

    @property
    def served(self) -> bool:
        """True if an engine samples."""
        return self.engine is not None

    @property
    def end_ids(self) -> Sequence[int]:
        """The ids that end a completion."""
        return self._eos_ids

    @property
    def base_model(self) -> torch.nn.Module:
        """The model that an engine starts with."""
        return self.model

    @property
    def hf_tokenizer(self) -> Any:
        """The Hugging Face tokenizer, with the chat template of this policy."""
        return self.tokens.tokenizer

    def render(self, messages: Sequence[dict[str, str]]) -> NDArray[np.int32]:
        """Return the token ids of a chat; special tokens spelled out in a content stay text."""
        return self.tokens.render(messages)

    def encode(self, text: str, *, ended: bool) -> NDArray[np.int32]:
        """Return the token ids of a completion's text, followed by the chat template's end of turn if it `ended`."""
        return self.tokens.encode(text, ended=ended)

    def extend(
        self, ids: NDArray[np.int32], messages: Sequence[dict[str, str]], new: Sequence[dict[str, str]]
    ) -> NDArray[np.int32]:
        """Return the ids of the next prompt of a chat: `ids` unchanged, then what the chat template adds."""
        return self._turns.extend(ids, messages, new)

    def prove_extend(self) -> None:
        """Raise `DataError` unless `extend` spells what the chat template spells."""
        self._turns.prove()

    def tool_chat(self, tools: Sequence[ToolSchema]) -> ToolChat | None:
        """Return chats with these tools, if the chat template takes tools and TRL knows its format of calls."""
        return tool_tokens(self.tokens, tools, ends=self._eos_ids)

    @cached_property
    def _turns(self) -> TurnTokens:
        return TurnTokens(self.tokens, ends=self._eos_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of completion ids, without end tokens and padding."""
        return self.tokens.texts([list(map(int, ids))], ends=self._eos_ids)[0]

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Sample `num_generations` completions per prompt.

        Raises `NodeFailed` if a prompt has no tokens or log-probs are not finite.
        """
        if any(len(prompt) == 0 for prompt in prompts):
            raise NodeFailed(f"policy {self.name!r}: a prompt has no tokens; there is nothing to complete")
        if self.engine is not None:
            return self.engine.generate(self, prompts, num_generations=num_generations, sampling=sampling, rng=rng)
        return self._sampled(prompts, num_generations, sampling=sampling, rng=rng, max_batch_tokens=max_batch_tokens)

    def _sampled(
        self,
        prompts: Sequence[NDArray[np.int32]],
        num_generations: int,
        *,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
        images: PromptImages | None = None,
    ) -> list[list[Completion]]:
        """Sample from the model of this process; `images` are those that the prompts show."""
        # the first access to `_shares` prepares the model, from which the sampler is then copied
        shared = self._shares and self.reading.shares_prompts
        keeps = self.reading.caches and not self.reading.whole_rows and images is None
        with self.computing():
            sampler = self._sampler()
            sampled = sample_completions(
                sampler,
                prompts,
                num_generations=num_generations,
                sampling=sampling,
                rng=rng,
                limits=Limits(self._eos_ids, self._unknown, self.decode, self.tokens.silent(self._eos_ids)),
                max_batch_tokens=max_batch_tokens,
                shared=shared,
                reading=self.reading,
                session=self._session if keeps else None,
                images=images,
            )
        ids = [row[:length] for row, length in zip(sampled.ids, sampled.lengths, strict=True)]
        logprobs = [row[:length] for row, length in zip(sampled.logprobs, sampled.lengths, strict=True)]
        supports: Sequence[Support | None] = sampled.supports or [None] * len(ids)
        rows_of = [
            TokenSequence(prompts[at // num_generations], row, support, sampling.repetition_penalty)
            for at, (row, support) in enumerate(zip(ids, supports, strict=True))
        ]
        for at, again in self._beyond_border(sampler, rows_of, sampling.temperature).items():
            logprobs[at] = again
        if ids and not np.isfinite(np.concatenate(logprobs)).all():
            raise NodeFailed(
                f"policy {self.name!r} version {self.version}: log-probs are not finite; lower the learning rate"
            )
        texts = self.tokens.texts([row.tolist() for row in ids], ends=self._eos_ids)
        finish = ["stop" if stopped else "length" for stopped in sampled.stopped.tolist()]
        rows = [Completion(*parts) for parts in zip(ids, logprobs, texts, finish, supports, strict=True)]
        return [rows[at : at + num_generations] for at in range(0, len(rows), num_generations)]

    @contextmanager
    def keeping(self, max_bytes: int) -> Iterator[None]:
        """Keep keys and values of at most `max_bytes` between calls of `generate`, until the block ends."""
        self._session = KvSession(max_bytes)
        try:
            yield
        finally:
            self._session = None

    def _beyond_border(
        self, sampler: torch.nn.Module, rows: Sequence[TokenSequence], temperature: float
    ) -> dict[int, NDArray[np.float32]]:
        """Return the log-probs of rows that grew past a border: those of the whole row, as training computes them."""
        key = self.reading.lengths.key
        grown = [
            at
            for at, row in enumerate(rows)
            if key(len(row.prompt_ids)) != key(len(row.prompt_ids) + len(row.completion_ids))
        ]
        if not grown:
            return {}
        with torch.no_grad(), self.computing():
            values = self._logprobs_of(
                sampler, [rows[at] for at in grown], np.full(len(grown), temperature, np.float32)
            )
        return {
            at: value[: len(rows[at].completion_ids)] for at, value in zip(grown, values.cpu().numpy(), strict=True)
        }

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state and version, with the config and tokenizer that transformers needs.

        A critic has a file of its own.
        """
        self.save_tensors(folder)
        self.save_facts(folder)

    def save_tensors(self, folder: Path) -> None:
        """Write weights, optimiser state and critic; all ranks of a group that shares the policy do so together."""
        save_weights(folder / self.weights_file, self.weights())
        if (moments := self._moments()) is not None:
            save_weights(folder / OPTIMIZER, moments)
        self._save_critic(folder)

    def save_facts(self, folder: Path) -> None:
        """Write the version, and the config and tokenizer that transformers needs."""
        save_version(folder, version=self.version, has_moments=self._optimizer is not None, base=self._identity)
        self._save_config(folder)
        self.hf_tokenizer.save_pretrained(folder)

    def _save_config(self, folder: Path) -> None:
        cast(Any, self.model).config.save_pretrained(folder)

    @property
    def _identity(self) -> str:
        """The digest of the base and scale of an adapter, to which its weights belong; empty for a whole model."""
        return ""

    def save_frozen(self, folder: Path) -> None:
        """Write what `load_frozen` needs to make this policy again without its carry."""
        self.save(folder)
        facts = {
            "name": self.name,
            "context": self.context_length,
            "bfloat16": self._training.bfloat16,
            "param_dtype": str(self._training.param_dtype).removeprefix("torch."),
            "share_prefixes": self._training.share_prefixes,
            "ends": list(self._eos_ids),
            "device": str(self.device),
        }
        (folder / FROZEN).write_text(json.dumps(facts) + "\n")

    def end_with(self, ids: Sequence[int]) -> None:
        """Set the ids that end a completion."""
        self._eos_ids = list(ids)

    def export(self, folder: Path) -> None:
        """Write model and tokenizer for plain transformers, and verify that it computes the same log-probs from them.

        A critic is written beside the model. Raises `StoreError`, with nothing left behind, if it does not.
        """
        with exported.all_or_nothing(folder):
            model, weights = self.merged()
            with without_progress():
                # transformers splits weights that it keeps fused in memory, such as those of experts
                cast(Any, model).save_pretrained(folder, state_dict=weights)
            self.hf_tokenizer.save_pretrained(folder)
            self._save_critic(folder)
            self._verify(folder, exported.load_exported(folder))

    def _verify(self, folder: Path, model: Any) -> None:
        """Raise `StoreError` if a model that was exported to `folder` computes other log-probs than this policy.

        Both compute in float32, also with weights that are bfloat16.
        """
        own = exported.in_float32(self.model)

        def live(rows: list[TokenSequence]) -> torch.Tensor:
            # as in the files: with the ids that the tokenizer does not know
            ones = np.ones(len(rows), np.float32)
            return logprobs_by_group(own, rows, ones, reading=self.reading, plain_head=self._has_plain_head)

        exported.verify(folder, model, live, vocab_size=self.vocab_size, length=self.context_length)

    def fork(self, name: str) -> Self:
        """Return an independent copy with its own weights, critic and optimiser state."""
        other, moments = self.frozen(name), self._moments()
        other.set_critic(None if self.critic is None else self._copied(self.critic))
        if moments is not None:
            restore_optimizer(other.trained(), other.optimizer(), moments)
        return other

    def frozen(self, name: str) -> Self:
        """Return a copy of the weights without optimiser state and critic."""
        other = self._twin(name)
        other.version, other.pristine, other.engine = self.version, self.pristine, self.engine
        other.__dict__.update({name: self.__dict__[name] for name in MEASURED if name in self.__dict__})
        return other

    def _twin(self, name: str) -> Self:
        """Return a policy with the same settings and a copy of the weights, without optimiser state and critic."""
        model = self._copied(self.model)
        return type(self)(name, model, self.tokens, context=self.context_length, training=self._training)

    def _copied(self, module: M) -> M:
        """Return a copy of the model or critic, without gradients."""
        other = copy.deepcopy(module)
        other.zero_grad(set_to_none=True)
        return other

    def add_critic(self, params: CriticParams | None, *, where: str) -> None:
        """Give the policy a new critic if `params` say so; raises `DataError` for an unfit architecture."""
        if params is not None:
            self.set_critic(Critic.on(self.model, params, copied=self._copied, where=where))

    def _sampler(self) -> torch.nn.Module:
        """Return the model that one call of `generate` samples from."""
        if self._training.bfloat16 and self.device.type == "cpu":
            return prepacked(self.model)
        return self.model

    @property
    def adapter_rank(self) -> int:
        """The rank of the adapter; 0 if there is none."""
        return 0

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter alone, as peft does; only a policy that `adapts` has one."""
        raise NotImplementedError

    def merged(self) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
        """Return a model of the architecture, and the policy's weights under that model's names."""
        return self.model, self.weights()


def _eos_ids(model: torch.nn.Module, tokens: ChatTokens) -> list[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({tokens.end_of_turn, tokens.tokenizer.eos_token_id, *listed} - {None})
