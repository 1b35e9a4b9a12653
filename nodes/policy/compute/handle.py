"""The live handle of a causal language model: samples, judges and trains one set of weights."""

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.allocator import release_memory
from genrl_graph.contract.policy import Completion, Sampling, TextPolicy, TokenSequence
from genrl_graph.errors import NodeFailed, StoreError
from genrl_graph.nodes.policy.compute.activation_checkpointing import Recompute, kept_bytes
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.logprobs import completion_logprobs, has_plain_head, read_of
from genrl_graph.nodes.policy.compute.onednn_linear import prepacked
from genrl_graph.nodes.policy.compute.packed_forward import prepare
from genrl_graph.nodes.policy.compute.packing import packed_batches, packed_tokens
from genrl_graph.nodes.policy.compute.sampling import sample_completions
from genrl_graph.nodes.policy.compute.weights import (
    WEIGHTS,
    load_state,
    named_tensors,
    optimizer_tensors,
    restore_optimizer,
    save_state,
    save_weights,
    weights_digest,
)

TRIED = ("_has_plain_head", "_shares", "_saved_token")  # what holds for every copy of a model
PROBED = (32, 96)
"""Tokens of two rows from which it is seen what a token keeps of its activations."""


@dataclass(frozen=True, slots=True)
class Training:
    """How weights are trained: AdamW (arXiv 1711.05101), decay on matrices only, and what computing costs in memory."""

    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    bfloat16: bool = False  # autocast; weights and optimiser stay float32
    activation_bytes: float = math.inf  # what a micro-batch may keep of its activations; 0: no more than it must
    share_prefixes: bool = False  # compute once what rows have in common from their beginning on


class CausalPolicy(TextPolicy):
    """A policy over a Hugging Face causal language model with float32 weights, always without dropout.

    Who trains it without `backward` and `step` (a trainer of TRL) has `model`, in evaluation mode when it is given and
    when it is given back, `hf_tokenizer`, `optimizer()` and, once the weights have moved, `stepped(n)`.
    Gradients and optimiser state exist only from the first backward and the first step on.
    """

    def __init__(
        self, name: str, model: torch.nn.Module, tokens: ChatTokens, *, context: int, training: Training
    ) -> None:
        self.name, self.version = name, 0
        self.context, self.tokenizer, self.vocabulary = context, tokens.fingerprint, _vocabulary(model)
        self.model = model.float().eval()
        self.pristine = True  # whether the weights are still those that it was made with
        self._tokens, self._training = tokens, training
        self._optimizer: torch.optim.AdamW | None = None
        self._eos_ids = _eos_ids(model, tokens.tokenizer)
        self._recompute = Recompute(model, training.activation_bytes)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def computes(self) -> str:
        """The precision of its matrix products, and the kind of device."""
        return f"{'bfloat16' if self._training.bfloat16 else 'float32'} on {self.device.type}"

    @property
    def hf_tokenizer(self) -> Any:
        """The Hugging Face tokenizer, with the chat template of this policy."""
        return self._tokens.tokenizer

    def render(self, messages: Sequence[dict[str, str]]) -> NDArray[np.int32]:
        """The ids of a chat; special tokens spelled out in a content stay text."""
        return self._tokens.render(messages)

    def encode(self, text: str, *, ended: bool) -> NDArray[np.int32]:
        """The ids of a completion's text, and the end token of the tokenizer where it `ended`."""
        return self._tokens.encode(text, ended=ended)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of completion ids without special tokens."""
        return self._tokens.texts([list(map(int, ids))])[0]

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: np.random.Generator,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """`num_generations` completions for each prompt; raises `NodeFailed` where log-probs are not finite."""
        if any(len(prompt) == 0 for prompt in prompts):
            raise NodeFailed(f"policy {self.name!r}: a prompt has no tokens; there is nothing to complete")
        shared = self._shares  # lets the model read packed rows: before the sampler is made of it
        with self.computing():
            sampled = sample_completions(
                self._sampler(),
                prompts,
                num_generations=num_generations,
                sampling=sampling,
                rng=rng,
                eos_ids=self._eos_ids,
                max_batch_tokens=max_batch_tokens,
                shared=shared,
            )
        ids = [row[:length] for row, length in zip(sampled.ids, sampled.lengths, strict=True)]
        logprobs = [row[:length] for row, length in zip(sampled.logprobs, sampled.lengths, strict=True)]
        if ids and not np.isfinite(np.concatenate(logprobs)).all():
            raise NodeFailed(
                f"policy {self.name!r} version {self.version}: log-probs are not finite; lower the learning rate"
            )
        texts = self._tokens.texts([row.tolist() for row in ids])
        finish = ["stop" if stopped else "length" for stopped in sampled.stopped.tolist()]
        rows = [Completion(*parts) for parts in zip(ids, logprobs, texts, finish, strict=True)]
        return [rows[at : at + num_generations] for at in range(0, len(rows), num_generations)]

    def micro_batches(self, sequences: Sequence[TokenSequence], *, max_batch_tokens: int) -> list[NDArray[np.int64]]:
        """Positions of rows that are trained on at once; a prompt that rows share counts once where it is read once."""
        if not self._shares:
            return super().micro_batches(sequences, max_batch_tokens=max_batch_tokens)
        return packed_batches([read_of(sequence) for sequence in sequences], max_tokens=max_batch_tokens)

    def logprobs(self, sequences: Sequence[TokenSequence], *, temperatures: NDArray[np.float32]) -> torch.Tensor:
        """Log-probs of the completion tokens: float32 [rows, longest completion], 0 beyond a row's completion."""
        grows = torch.is_grad_enabled()
        if self.device.type == "cpu":
            release_memory(seldom=True)  # another micro-batch does not fit into the holes that one leaves
        if grows and self._recompute.depends:
            self._recompute.fit(self._tokens_read(sequences), self._saved_token)
        self.model.train(grows and self._recompute.any)  # dropout is off
        try:
            return self._logprobs(sequences, temperatures)
        finally:
            self.model.eval()

    def _logprobs(self, sequences: Sequence[TokenSequence], temperatures: NDArray[np.float32]) -> torch.Tensor:
        with self.computing():
            return completion_logprobs(
                self.model, sequences, temperatures, plain_head=self._has_plain_head, shared=self._shares
            )

    def _tokens_read(self, sequences: Sequence[TokenSequence]) -> int:
        """Tokens of a micro-batch with what is shared counted once, or else with its padding."""
        ids = [read_of(sequence) for sequence in sequences]
        return packed_tokens(ids) if self._shares else len(ids) * max(map(len, ids), default=0)

    @cached_property
    def _saved_token(self) -> float:
        """Bytes that a token more adds to what a forward pass keeps for its backward pass."""
        sizes = []
        with torch.enable_grad():
            for count in PROBED:
                ids = np.linspace(0, self.vocabulary - 1, count).astype(np.int32)
                probe = [TokenSequence(ids[:-1], ids[-1:])]
                sizes.append(kept_bytes(partial(self._logprobs, probe, np.ones(1, np.float32)), self.model))
        return max(0.0, (sizes[1] - sizes[0]) / (PROBED[1] - PROBED[0]))

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of one micro-batch."""
        cast(Any, loss).backward()

    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """One AdamW step with the gradients, clipped to `max_grad_norm`; returns the norm before clipping.

        Raises `NodeFailed` where the norm is not finite or no gradients were added; the weights then stay.
        """
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if not parameters:
            raise NodeFailed(f"policy {self.name!r}: a step without gradients; call backward first")
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm))
        if not np.isfinite(norm):
            self.model.zero_grad(set_to_none=True)
            raise NodeFailed(
                f"policy {self.name!r} version {self.version}: the gradient norm is {norm}; nothing was applied"
            )
        optimizer = self.optimizer()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        self.stepped(1)
        return norm

    def optimizer(self) -> torch.optim.AdamW:
        """The AdamW of this policy, made on first use; whoever steps it says so with `stepped`."""
        if self._optimizer is None:
            self._optimizer = self._new_optimizer()
        return self._optimizer

    def stepped(self, steps: int) -> None:
        """Count optimiser steps that were applied to the weights, and drop what is left of their gradients."""
        self.model.zero_grad(set_to_none=True)
        self.version += steps
        self.pristine = self.pristine and steps == 0

    def weights(self) -> dict[str, torch.Tensor]:
        """What is the policy's own, by name: what is saved and digested."""
        return named_tensors(self.model)

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """What its optimiser steps, by name."""
        return dict(self.model.named_parameters())

    def save(self, folder: Path) -> None:
        """Write weights, optimiser, version, and the configuration and tokenizer that transformers loads them with."""
        save_state(folder, self.weights(), self._moments(), version=self.version)
        cast(Any, self.model).config.save_pretrained(folder)
        self.hf_tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Become what was saved; raises `StoreError` where the weights are another model's."""
        self._restore(folder, optimizer=True)

    def load_weights(self, folder: Path) -> None:
        """Take weights and version of what was saved, and start with a fresh optimiser."""
        self._restore(folder, optimizer=False)

    def digest(self) -> str:
        """Hex digest of the weights."""
        return weights_digest(self.weights())

    def export(self, folder: Path) -> None:
        """Write a model that plain transformers loads and that gives the same logits, with its tokenizer."""
        model = cast(Any, self.model)
        save_weights(folder / WEIGHTS, self._whole_weights())
        model.config.save_pretrained(folder)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(folder)
        self.hf_tokenizer.save_pretrained(folder)

    def fork(self, name: str) -> Self:
        """A second live version with its own weights and optimiser state."""
        other = self._twin(name)
        other.version, other.pristine = self.version, self.pristine
        other.__dict__.update({name: self.__dict__[name] for name in TRIED if name in self.__dict__})
        moments = self._moments()
        if moments is not None:
            restore_optimizer(other.trained(), other.optimizer(), moments)
        return other

    def _twin(self, name: str) -> Self:
        """A policy of the same make with a copy of the weights."""
        model = copy.deepcopy(self.model)
        model.zero_grad(set_to_none=True)
        return type(self)(name, model, self._tokens, context=self.context, training=self._training)

    def _sampler(self) -> torch.nn.Module:
        """The model that tokens are sampled from, for one call of `generate`."""
        if self._training.bfloat16 and self.device.type == "cpu":
            return prepacked(self.model)
        return self.model

    def _whole_weights(self) -> dict[str, torch.Tensor]:
        return self.weights()

    def _read(self, folder: Path, *, optimizer: bool) -> tuple[int, dict[str, torch.Tensor] | None]:
        return load_state(folder, self.weights(), optimizer=optimizer)

    def _restore(self, folder: Path, *, optimizer: bool) -> None:
        version, moments = self._read(folder, optimizer=optimizer)
        self.model.zero_grad(set_to_none=True)
        self.version, self.pristine, self._optimizer = version, False, None
        if moments is not None:
            try:
                restore_optimizer(self.trained(), self.optimizer(), moments)
            except KeyError as error:
                raise StoreError(f"{folder}: optimiser state of an unknown parameter {error}") from error

    def _moments(self) -> dict[str, torch.Tensor] | None:
        return None if self._optimizer is None else optimizer_tensors(self.trained(), self._optimizer)

    @cached_property
    def _has_plain_head(self) -> bool:
        return has_plain_head(self.model)

    @cached_property
    def _shares(self) -> bool:
        """Whether what rows have in common from their beginning on is read once."""
        return self._training.share_prefixes and self._has_plain_head and prepare(self.model)

    def computing(self) -> AbstractContextManager[Any]:
        """The precision in which this policy computes: bfloat16 by autocast, or as its weights are."""
        # one context a call: autocast keeps the bfloat16 copies of the weights as long as it lasts
        return torch.autocast(self.device.type, torch.bfloat16) if self._training.bfloat16 else nullcontext()

    def _new_optimizer(self) -> torch.optim.AdamW:
        trained = self.trained().values()
        decayed, plain = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": self._training.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, betas=self._training.betas, fused=True
        )


def _vocabulary(model: torch.nn.Module) -> int:
    """The ids that both ends of the model know; often some more than the tokenizer has."""
    layers = (cast(Any, model).get_input_embeddings(), cast(Any, model).get_output_embeddings())
    return min(int(layer.weight.shape[0]) for layer in layers if layer is not None)


def _eos_ids(model: torch.nn.Module, tokenizer: Any) -> list[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *listed} - {None})
