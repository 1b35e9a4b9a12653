"""A policy that the ranks of a group share, as the game sees it on the first of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.contract.policy import Completion, Randomness, Sampling, TextPolicy, TokenSequence
from genrl_graph.contract.tool_chat import ToolChat, ToolSchema
from genrl_graph.errors import NodeFailed, ParamError
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.sampling import drawn_uniforms
from genrl_graph.nodes.policy.replicas.calls import (
    Arrays,
    Call,
    array_text,
    completions_of,
    ragged,
    sequence_arrays,
)
from genrl_graph.nodes.policy.replicas.group import ReplicaGroup, shares
from genrl_graph.nodes.policy.replicas.shard import Shard, sequence_lengths


class ReplicatedPolicy(TextPolicy):
    """A policy of which each rank of a group holds a part, used like one that is whole.

    Rows to sample, to read and to train are shared out over the ranks. Log-probs and values are leaves of the graph of
    a loss: `backward` sends the gradients at them to the ranks that computed them.
    """

    def __init__(self, policy: CausalPolicy, group: ReplicaGroup) -> None:
        self.name = policy.name
        self.context_length, self.vocab_size = policy.context_length, policy.vocab_size
        self.tokenizer_fingerprint, self.unknown_ids = policy.tokenizer_fingerprint, policy.unknown_ids
        self._policy, self._group, self._shard = policy, group, Shard(policy, group)
        self._passes: dict[int, list[torch.Tensor]] = {}
        self._count = 0

    @property
    def version(self) -> int:  # type: ignore[override]
        """The number of optimiser steps, which all ranks take together."""
        return self._policy.version

    @property
    def computes(self) -> str:
        """The precision of matrix products and the kind of device."""
        return self._policy.computes

    @property
    def served(self) -> bool:
        """True if an engine samples."""
        return self._policy.served

    @property
    def has_critic(self) -> bool:
        """True if the policy has a critic."""
        return self._policy.has_critic

    def render(self, messages: Sequence[dict[str, str]]) -> NDArray[np.int32]:
        """Return the token ids of a chat."""
        return self._policy.render(messages)

    def encode(self, text: str, *, ended: bool) -> NDArray[np.int32]:
        """Return the token ids of a completion's text."""
        return self._policy.encode(text, ended=ended)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of completion ids."""
        return self._policy.decode(ids)

    def extend(
        self, ids: NDArray[np.int32], messages: Sequence[dict[str, str]], new: Sequence[dict[str, str]]
    ) -> NDArray[np.int32]:
        """Return the ids of the next prompt of a chat."""
        return self._policy.extend(ids, messages, new)

    def prove_extend(self) -> None:
        """Raise `DataError` unless `extend` spells what the chat template spells."""
        self._policy.prove_extend()

    def tool_chat(self, tools: Sequence[ToolSchema]) -> ToolChat | None:
        """Return chats with these tools in the policy's own format, if it has one."""
        return self._policy.tool_chat(tools)

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Sample `num_generations` completions per prompt; the ranks share the rows out, or the first asks the engine.

        Every rank has the whole weights meanwhile. Raises `NodeFailed` if a prompt has no tokens.
        """
        if any(len(prompt) == 0 for prompt in prompts):
            raise NodeFailed(f"policy {self.name!r}: a prompt has no tokens; there is nothing to complete")
        if self.served:
            ask = partial(self._policy.generate, prompts, num_generations=num_generations, sampling=sampling)
            return self._shard.lead(partial(ask, rng=rng, max_batch_tokens=max_batch_tokens))
        rows = [prompt for prompt in prompts for _ in range(num_generations)]
        arrays = ragged("prompts", rows, np.int32)
        if sampling.temperature > 0:
            arrays["drawn"] = drawn_uniforms(rng, len(rows), sampling.max_new_tokens)
        options = {"sampling": dataclasses.asdict(sampling), "max_batch_tokens": max_batch_tokens}
        completions = [one for part in self._gathered("generate", options, arrays) for one in completions_of(part)]
        return [completions[at : at + num_generations] for at in range(0, len(completions), num_generations)]

    def micro_batches(self, sequences: Sequence[TokenSequence], *, max_batch_tokens: int) -> list[NDArray[np.int64]]:
        """Return micro-batches of which each rank has a share of about `max_batch_tokens`."""
        return self._policy.micro_batches(sequences, max_batch_tokens=self._group.size * max_batch_tokens)

    def logprobs(self, sequences: Sequence[TokenSequence], *, temperatures: NDArray[np.float32]) -> torch.Tensor:
        """Return log-probs of the completion tokens, float32 [rows, longest completion], 0 beyond a row's end."""
        return self._read("logprobs", sequences, temperatures)[0]

    def values(self, sequences: Sequence[TokenSequence]) -> torch.Tensor:
        """Return the critic's values, float32 [rows, longest completion + 1], 0 beyond a row's end."""
        if not self.has_critic:
            return super().values(sequences)
        return self._read("values", sequences, np.ones(len(sequences), np.float32))[0]

    def logprobs_and_values(
        self, sequences: Sequence[TokenSequence], *, temperatures: NDArray[np.float32]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probs and values, from one call of the ranks."""
        if not self.has_critic:
            return super().logprobs_and_values(sequences, temperatures=temperatures)
        logprobs, values = self._read("both", sequences, temperatures)
        return logprobs, values

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of one micro-batch: here those at log-probs and values, on the ranks those at weights."""
        loss.backward()  # type: ignore[no-untyped-call]
        for number, tensors in list(self._passes.items()):
            gradients = {str(at): t.grad.cpu().numpy() for at, t in enumerate(tensors) if t.grad is not None}
            if gradients:
                self._call("backward", {"pass": number}, gradients)
                self._passes = {other: kept for other, kept in self._passes.items() if other > number}

    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """Take one optimiser step on all ranks; returns the norm of the gradient before clipping."""
        self._passes.clear()
        options = {"learning_rate": learning_rate, "max_grad_norm": max_grad_norm}
        return float(self._call("step", options)["norm"][0])

    def save(self, folder: Path) -> None:
        """Write the files of a whole policy: each rank its part of the tensors, then the first puts them in one."""
        self._call("save", {"folder": str(folder.resolve())})

    def load(self, folder: Path) -> None:
        """Load weights, version and optimiser state, each rank its part; raises `StoreError` for another model's."""
        self._call("load", {"folder": str(folder.resolve()), "optimizer": True})

    def load_weights(self, folder: Path) -> None:
        """Load weights and version, without the optimiser state; raises `StoreError` like `load`."""
        self._call("load", {"folder": str(folder.resolve()), "optimizer": False})

    def digest(self) -> str:
        """Return the digest that the whole policy has."""
        return array_text(self._call("digest", {})["digest"])

    def trained_values(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the trained parameters by name."""
        return dict(self._call("trained", {}))

    def replace_trained(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Replace the trained parameters and increase `version` by 1; the state of the optimiser stays."""
        self._call("replace", {}, values)

    def keeping(self, max_bytes: int) -> AbstractContextManager[None]:
        """Keep nothing between calls: another rank may have a row in the next one."""
        return super().keeping(max_bytes)

    def fork(self, name: str) -> Self:
        """Raise `ParamError`: the ranks hold one copy."""
        raise ParamError(f"policy {self.name!r}: cannot be copied while {self._group.size} ranks share it")

    def _read(
        self, what: str, sequences: Sequence[TokenSequence], temperatures: NDArray[np.float32]
    ) -> list[torch.Tensor]:
        """Return what the ranks compute of all rows; leaves with gradients, unless the caller disables them."""
        options: dict[str, Any] = {"what": what}
        if torch.is_grad_enabled():
            self._count += 1
            options["pass"] = self._count
        parts = self._gathered("read", options, sequence_arrays(sequences) | {"temperatures": temperatures})
        rows = shares(sequence_lengths(sequences), self._group.size)
        longest = max((len(sequence.completion_ids) for sequence in sequences), default=0)
        widths = [longest + (what == "values" or at == 1) for at in range(len(parts[0]))]
        tensors = [_joined([part[str(at)] for part in parts], rows, width) for at, width in enumerate(widths)]
        leaves = [torch.from_numpy(tensor).to(self._policy.device) for tensor in tensors]
        if "pass" in options:
            self._passes[self._count] = [leaf.requires_grad_() for leaf in leaves]
        return leaves

    def _call(self, method: str, options: Mapping[str, Any], arrays: Arrays | None = None) -> Arrays:
        return self._group.call(Call(self._shard.number, method, options, arrays or {}))[0]

    def _gathered(self, method: str, options: Mapping[str, Any], arrays: Arrays) -> list[Arrays]:
        return self._group.call(Call(self._shard.number, method, options, arrays, gathered=True))


def _joined(parts: Sequence[NDArray[Any]], rows: Sequence[NDArray[np.int64]], width: int) -> NDArray[Any]:
    """Put the rows of all ranks together as [rows, width], padded with 0."""
    joined = np.zeros((sum(map(len, rows)), width), parts[0].dtype)
    for part, at in zip(parts, rows, strict=True):
        joined[at, : part.shape[1]] = part[:, :width]
    return joined
