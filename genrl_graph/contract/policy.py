"""What the carries of a round hold: live values that are saved, loaded and named by a digest; above all policies."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from genrl_graph.edge_types.edge_type import EdgeValue

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


class Carried(EdgeValue, ABC):
    """A value that enters a round and whose next value leaves it."""

    mutable: ClassVar[bool] = True  # an update changes it in place, so the check orders its readers first

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that `load` needs for an exact copy into an existing, empty folder."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Become what was saved in `folder`; raises `StoreError` where it does not fit."""

    @abstractmethod
    def digest(self) -> str:
        """Hex digest of the content; equal values have equal digests."""


class Policy(Carried):
    """What acts: weights, optimiser state and `version`, the number of optimiser steps since it was made."""

    name: str
    version: int

    @property
    def computes(self) -> str:
        """What it computes in and where, such as "bfloat16 on cpu", which a run folder notes; by default nothing."""
        return ""

    @abstractmethod
    def fork(self, name: str) -> Self:
        """A second live version with its own copy of weights and optimiser state."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are sampled; `temperature` 0 is greedy, `top_p` 1 keeps the whole distribution."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion: token ids and log-probs of shape (tokens,), text, and why it ended (stop, length).

    The end token belongs to `ids`: the policy chose it, so it is trained. `logprobs` are those of the distribution
    at the sampling temperature before any top-p cut.
    """

    ids: "NDArray[np.int32]"
    logprobs: "NDArray[np.float32]"
    text: str
    finish: str


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt and a completion whose log-probs are wanted: int32 ids of shape (prompt,) and (completion,)."""

    prompt_ids: "NDArray[np.int32]"
    completion_ids: "NDArray[np.int32]"


class TextPolicy(Policy):
    """A policy over token sequences."""

    tokenizer: str  # fingerprint of vocabulary and chat template: equal fingerprints give equal ids
    context: int  # the longest prompt plus completion, in tokens
    vocabulary: int  # how many ids it reads: 0 to vocabulary - 1

    @abstractmethod
    def render(self, messages: Sequence[dict[str, str]]) -> "NDArray[np.int32]":
        """The ids of a chat, up to where the completion begins."""

    @abstractmethod
    def encode(self, text: str, *, ended: bool) -> "NDArray[np.int32]":
        """The ids of a completion's text, and the end token after them where it `ended`.

        A special token spelled out in the text stays text.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of completion ids without special tokens."""

    @abstractmethod
    def generate(
        self,
        prompts: "Sequence[NDArray[np.int32]]",
        *,
        num_generations: int,
        sampling: Sampling,
        rng: np.random.Generator,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """`num_generations` completions for each prompt, from as few batched calls as `max_batch_tokens` allows.

        A batch of B sequences counts B x (longest prompt + max_new_tokens) tokens.
        """

    def micro_batches(self, sequences: Sequence[TokenSequence], *, max_batch_tokens: int) -> "list[NDArray[np.int64]]":
        """Positions of rows that are trained on at once, such that `logprobs` reads at most so many tokens for them.

        A row that is longer is a batch of its own. By default B rows count B x longest row.
        """
        lengths = [len(sequence.prompt_ids) + len(sequence.completion_ids) for sequence in sequences]
        return micro_batches(lengths, max_batch_tokens=max_batch_tokens)

    @abstractmethod
    def logprobs(self, sequences: Sequence[TokenSequence], *, temperatures: "NDArray[np.float32]") -> "torch.Tensor":
        """Log-probs of the completion tokens at each row's temperature: float32 [rows, longest completion].

        Positions beyond a row's completion hold 0. Gradients flow unless the caller forbids them.
        """

    @abstractmethod
    def backward(self, loss: "torch.Tensor") -> None:
        """Add the gradients of one micro-batch."""

    @abstractmethod
    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """Apply the gradients, clipped to `max_grad_norm`; `version` grows by 1. Returns the norm before clipping.

        A norm that is not finite applies nothing and raises `NodeFailed`.
        """


def micro_batches(lengths: Sequence[int], *, max_batch_tokens: int) -> "list[NDArray[np.int64]]":
    """Positions of rows in batches of at most `max_batch_tokens` tokens, padding included, shortest rows first.

    A batch of rows counts rows x longest row. A row longer than the budget is a batch of its own.
    """
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[list[int]] = []
    for at in order.tolist():
        if batches and (len(batches[-1]) + 1) * lengths[at] <= max_batch_tokens:
            batches[-1].append(at)
        else:
            batches.append([at])
    return [np.asarray(batch, dtype=np.int64) for batch in batches]
