"""The part of a language model's policy that reads rows: log-probs and values, in few forward passes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.allocator import release_memory
from genrl_graph.contract.policy import TokenSequence
from genrl_graph.nodes.policy.compute.activation_checkpointing import ActivationCheckpointing, kept_bytes
from genrl_graph.nodes.policy.compute.call_state import remember
from genrl_graph.nodes.policy.compute.critic import logprobs_and_values
from genrl_graph.nodes.policy.compute.logprobs import has_plain_head, logprobs_by_group, read_of
from genrl_graph.nodes.policy.compute.packed_forward import prepare
from genrl_graph.nodes.policy.compute.packing import packed_batches, packed_tokens
from genrl_graph.nodes.policy.compute.probing.probes import reading_of
from genrl_graph.nodes.policy.compute.prompt_images import ReadImages
from genrl_graph.nodes.policy.compute.reading import Reading
from genrl_graph.nodes.policy.compute.trainable import TrainablePolicy

PROBE_LENGTH = 96
"""Tokens of the longer of two probes that measure the activation bytes of a token; less in a shorter context."""


class ReadingPolicy(TrainablePolicy):
    """A policy over a Hugging Face causal language model that computes log-probs and values of rows."""

    def _images_reader(self) -> ReadImages | None:
        """Return what turns images of prompts into inputs of the model; None where prompts show none."""
        return None

    def micro_batches(self, sequences: Sequence[TokenSequence], *, max_batch_tokens: int) -> list[NDArray[np.int64]]:
        """Return micro-batches as row indices; a prefix that rows share counts once if the model can share it."""
        if not self._shares:
            return super().micro_batches(sequences, max_batch_tokens=max_batch_tokens)
        return packed_batches([read_of(sequence) for sequence in sequences], max_tokens=max_batch_tokens)

    def logprobs(self, sequences: Sequence[TokenSequence], *, temperatures: NDArray[np.float32]) -> torch.Tensor:
        """Return log-probs of the completion tokens, float32 [rows, longest completion], 0 beyond a row's end."""
        with self._forward(sequences):
            return self._logprobs(sequences, temperatures)

    def values(self, sequences: Sequence[TokenSequence]) -> torch.Tensor:
        """Return the critic's values, float32 [rows, longest completion + 1], 0 beyond a row's end."""
        if self.critic is None:
            return super().values(sequences)
        with self._forward(sequences), self.computing():
            return self.critic.values(self.model, sequences, reading=self.reading, shared=self._shares)

    def logprobs_and_values(
        self, sequences: Sequence[TokenSequence], *, temperatures: NDArray[np.float32]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probs and values, from one forward pass if the critic's head is on this model."""
        if self.critic is None or self.critic.trunk is not None or not self._has_plain_head:
            return super().logprobs_and_values(sequences, temperatures=temperatures)
        with self._forward(sequences), self.computing():
            return logprobs_and_values(
                self.model,
                self.critic,
                sequences,
                temperatures,
                reading=self.reading,
                shared=self._shares,
                unknown=self._unknown,
            )

    def measure(self) -> None:
        """Find out now what is found out at first use: how the model may be called, and the memory of a token."""
        self.reading, self._has_plain_head, self._shares, self._unknown  # noqa: B018
        if any(checkpointing.adaptive for checkpointing in self._checkpointing):
            self._saved_token  # noqa: B018

    @contextmanager
    def _forward(self, sequences: Sequence[TokenSequence]) -> Iterator[None]:
        """Free memory before a forward pass, and let layers recompute their activations as the limit requires."""
        if self.device.type == "cpu":
            release_memory(seldom=True)  # the heap fragments: the next micro-batch does not fit into freed blocks
        if not torch.is_grad_enabled():
            yield
            return
        with ExitStack() as layers:
            for checkpointing in self._checkpointing:
                if checkpointing.adaptive:
                    checkpointing.fit(self._tokens_read(sequences), self._saved_token)
                layers.enter_context(checkpointing.recomputing())
            yield

    def _logprobs(self, sequences: Sequence[TokenSequence], temperatures: NDArray[np.float32]) -> torch.Tensor:
        with self.computing():
            return self._logprobs_of(self.model, sequences, temperatures)

    def _logprobs_of(
        self, model: torch.nn.Module, sequences: Sequence[TokenSequence], temperatures: NDArray[np.float32]
    ) -> torch.Tensor:
        return logprobs_by_group(
            model,
            sequences,
            temperatures,
            reading=self.reading,
            plain_head=self._has_plain_head,
            shared=self._shares,
            unknown=self._unknown,
            read_images=self._images_reader(),
        )

    def _tokens_read(self, sequences: Sequence[TokenSequence]) -> int:
        """Return the tokens of a micro-batch in a forward pass: shared prefixes count once, padding counts."""
        ids = [read_of(sequence) for sequence in sequences]
        return packed_tokens(ids) if self._shares else len(ids) * max(map(len, ids), default=0)

    @cached_property
    def _saved_token(self) -> float:
        """Bytes per token that a forward pass keeps for its backward pass, estimated from two probes."""
        longer = min(PROBE_LENGTH, self.context_length)
        lengths, sizes = (max(2, longer // 3), longer), []
        with torch.enable_grad():
            for count in lengths:
                ids = np.linspace(0, self.vocab_size - 1, count).astype(np.int32)
                probe = [TokenSequence(ids[:-1], ids[-1:])]
                sizes.append(kept_bytes(partial(self._logprobs, probe, np.ones(1, np.float32)), self.model))
        return max(0.0, (sizes[1] - sizes[0]) / max(1, lengths[1] - lengths[0]))

    @cached_property
    def reading(self) -> Reading:
        """The ways of calling the model that are exact; the first access probes it. Raises `DataError` if none is."""
        reading = reading_of(self.model)
        for module in (self.model, self.critic):
            if module is not None:
                remember(module, reading.volatile)
        return reading

    @cached_property
    def _checkpointing(self) -> Sequence[ActivationCheckpointing]:
        """Activation checkpointing of the model, and of a critic with a model of its own, which share the memory."""
        limit = self._training.activation_bytes if self.reading.recomputes else math.inf
        trunk = None if self.critic is None else self.critic.trunk
        modules = [module for module in (self.model, trunk) if module is not None]
        return [ActivationCheckpointing(module, limit / len(modules)) for module in modules]

    @cached_property
    def _unknown(self) -> torch.Tensor | None:
        """The ids that the model has and the tokenizer does not know, None if there are none."""
        return torch.tensor(sorted(self.unknown_ids), device=self.device) if self.unknown_ids else None

    @cached_property
    def _has_plain_head(self) -> bool:
        return has_plain_head(self.model)

    @cached_property
    def _shares(self) -> bool:
        """True if the model computes shared prefixes once; the first access prepares and tests the model."""
        wanted = self._training.share_prefixes and self.reading.packs
        return wanted and self._has_plain_head and prepare(self.model)

    def computing(self) -> AbstractContextManager[Any]:
        """Return a context that sets the precision: bfloat16 autocast of float32 weights, or none."""
        # a new context per call: autocast caches bfloat16 copies of the weights for as long as it is open
        casts = self._training.bfloat16 and self._training.param_dtype == torch.float32
        return torch.autocast(self.device.type, torch.bfloat16) if casts else nullcontext()

    @contextmanager
    def training_forward(self) -> Iterator[None]:
        """Set precision and recomputing layers for a forward pass with gradients that a trainer of others makes.

        The model itself is in training mode, which such trainers ask for. The modules in it are not: dropout or the
        jitter of a router would be noise.
        """
        for module in self.model.modules():
            module.training = module is self.model
        with self.computing(), self._checkpointing[0].recomputing():
            yield
