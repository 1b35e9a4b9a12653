"""Carried values, above all policies: state that rounds update and that is saved, loaded and hashed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from genrl_graph.contract.tool_chat import ToolChat, ToolSchema
from genrl_graph.edge_types.edge_type import EdgeValue
from genrl_graph.edge_types.rollouts import NO_ENGINE, Rollouts
from genrl_graph.errors import ParamError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


class BrokenChat(Exception):
    """Raised if a chat cannot go on after a completion; the episode is recorded as failed, with this reason."""


class Carried(EdgeValue, ABC):
    """A value that a round reads, and whose next version it passes on."""

    mutable: ClassVar[bool] = True  # updates change it in place, so the graph check orders its readers before them

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Save everything that `load` needs to restore the value exactly, into an existing, empty folder."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Restore the value that was saved in `folder`; raises `StoreError` if it does not fit this object."""

    @abstractmethod
    def digest(self) -> str:
        """Return a hex digest of the content; equal values have equal digests."""


class Policy(Carried):
    """A policy: weights, optimiser state and `version`, the number of optimiser steps since its creation."""

    name: str
    version: int

    @property
    def computes(self) -> str:
        """Return the dtype and device that run folders record, such as "bfloat16 on cpu"; "" by default."""
        return ""

    @abstractmethod
    def fork(self, name: str) -> Self:
        """Return a second policy with its own copy of the weights and optimiser state."""

    def frozen(self, name: str) -> Self:
        """Return a copy to play against; override this to leave the optimiser state out."""
        return self.fork(name)

    def save_frozen(self, folder: Path) -> None:
        """Save this policy such that it can be loaded from the folder alone; by default `save` does so."""
        self.save(folder)

    def trained_values(self) -> "dict[str, NDArray[np.float32]]":
        """Return copies of the trained parameters by name, for averages over peers.

        Raises `ParamError` by default.
        """
        raise ParamError(f"policy {self.name!r}: its type gives no weights to average; leave out the average")

    def replace_trained(self, values: "Mapping[str, NDArray[np.float32]]") -> None:
        """Replace the trained parameters by others of the same names and shapes, and increase `version` by 1.

        The state of the optimiser stays. Raises `ParamError` by default.
        """
        raise ParamError(f"policy {self.name!r}: its type takes no averaged weights; leave out the average")


Randomness = np.random.Generator | Sequence[np.random.Generator]
"""One generator for all prompts, or one for each prompt: then a completion does not depend on the other prompts."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling options, applied in the order of transformers: penalty, temperature, then top-k, top-p and min-p.

    `temperature` 0 is greedy, and nothing is truncated. `top_k` 0, `top_p` 1 and `min_p` 0 keep the whole distribution.
    `repetition_penalty` 1 is none; it counts the tokens of the prompt, too. A completion ends with the token after
    which its text contains one of `stop`.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    @property
    def truncates(self) -> bool:
        """True if tokens are left out of the distribution."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0)


@dataclass(frozen=True, slots=True)
class Support:
    """The token ids that could be sampled at each place of a completion: `counts[t]` of the flat `ids`.

    Where a count is 0, the log-probs are of the whole distribution: nothing was left out, or more ids remained than
    are recorded (`MOST_SUPPORT`).
    """

    ids: "NDArray[np.int32]"
    counts: "NDArray[np.int32]"


MOST_SUPPORT = 1024
"""Most token ids of one place that a `Support` records."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion: token ids and log-probs of shape (tokens,), text, and finish reason (stop or length).

    `ids` include the end token, which is trained because the policy sampled it. `logprobs` come from the distribution
    that was sampled; `support` holds what was left of it where it was truncated. `error` says why a remote policy gave
    no completion. `weight_version` is the version of the policy whose weights an engine had; `NO_ENGINE` without one.
    """

    ids: "NDArray[np.int32]"
    logprobs: "NDArray[np.float32]"
    text: str
    finish_reason: str
    support: Support | None = None
    error: str = ""
    weight_version: int = NO_ENGINE


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt and a completion to compute log-probs for: int32 ids of shape (prompt,) and (completion,).

    `support` and `repetition_penalty` are those of its sampling; by default the whole distribution, without a penalty.
    `image` is the PNG that the prompt shows, empty without one.
    """

    prompt_ids: "NDArray[np.int32]"
    completion_ids: "NDArray[np.int32]"
    support: Support | None = None
    repetition_penalty: float = 1.0
    image: bytes = b""

    @classmethod
    def of(cls, rows: Rollouts) -> "list[TokenSequence]":
        """Return the sequence of each row, with the image, the support and the penalty that it was sampled with."""
        known = rows.with_local(rows.local_columns)
        pairs = zip(rows.ragged("prompt_ids"), rows.ragged("completion_ids"), strict=True)
        supports = zip(known.ragged("support_ids"), known.ragged("support_counts"), strict=True)
        images = (image.astype(np.uint8).tobytes() for image in known.ragged("image"))
        parts = zip(pairs, supports, known.numpy("repetition_penalty").tolist(), images, strict=True)
        return [
            cls(prompt, completion, Support(ids, counts) if len(counts) else None, penalty, image)
            for (prompt, completion), (ids, counts), penalty, image in parts
        ]


NO_CRITIC = "give its carry params.critic: {head: true}"
"""The advice where a policy lacks a critic."""


class TrainedPolicy(Policy):
    """A policy that updates train by the gradients of their losses."""

    @abstractmethod
    def backward(self, loss: "torch.Tensor") -> None:
        """Accumulate the gradients of the loss of one micro-batch."""

    @abstractmethod
    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """Apply the gradients, clipped to `max_grad_norm`, and increase `version` by 1.

        Returns the gradient norm before clipping. If it is not finite, raises `NodeFailed` and applies nothing.
        """


class TextPolicy(TrainedPolicy):
    """A policy over token sequences."""

    tokenizer_fingerprint: str  # fingerprint of vocabulary and chat template; equal fingerprints mean equal token ids
    context_length: int  # largest length of prompt plus completion in tokens
    vocab_size: int  # number of token ids; valid ids are 0 to vocabulary - 1
    unknown_ids: frozenset[int] = frozenset()  # valid ids that the tokenizer does not know: they are never sampled
    counts_tokens: bool = True  # False for a stand-in with another tokenizer than its model: prompts have no limit

    @property
    def served(self) -> bool:
        """Return whether an engine samples, so that rows say in `weight_version` which weights it had."""
        return False

    @property
    def has_critic(self) -> bool:
        """Return whether the policy has a critic, so that `values` and `logprobs_and_values` work."""
        return False

    @abstractmethod
    def render(self, messages: Sequence[dict[str, str]]) -> "NDArray[np.int32]":
        """Return the token ids of a chat prompt, up to the start of the completion."""

    def extend(
        self, ids: "NDArray[np.int32]", messages: Sequence[dict[str, str]], new: Sequence[dict[str, str]]
    ) -> "NDArray[np.int32]":
        """Return the ids of the next prompt of a chat: `ids` unchanged, then what the chat template adds for `new`.

        `ids` are the last prompt and its completion as sampled, `messages` the chat they spell, which ends with the
        completion. Raises `BrokenChat` if the chat cannot go on after this completion, and `ParamError` if no chat can.
        """
        raise ParamError(
            f"policy {self.name!r}: its type does not continue chats token by token; set history: template"
        )

    def prove_extend(self) -> None:
        """Raise `DataError` unless `extend` spells what the chat template spells; by default nothing is checked."""

    def tool_chat(self, tools: Sequence[ToolSchema]) -> ToolChat | None:
        """Return chats with these tools in the policy's own format, None if it has none or it is not known."""
        return None

    @abstractmethod
    def encode(self, text: str, *, ended: bool) -> "NDArray[np.int32]":
        """Return the token ids of a completion, followed by the end token if it `ended`.

        Special tokens spelled out in the text are encoded as plain text.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of completion ids, without special tokens."""

    @abstractmethod
    def generate(
        self,
        prompts: "Sequence[NDArray[np.int32]]",
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Sample `num_generations` completions for each prompt, in as few batches as `max_batch_tokens` allows.

        `rng` is one generator, or one for each prompt.
        A batch of B sequences counts B x (longest prompt + max_new_tokens) tokens.
        """

    def can_read(self, rows: Rollouts) -> "NDArray[np.bool_]":
        """Return which rows hold all that `logprobs` needs, shape (rows,); by default all do."""
        return np.ones(len(rows), dtype=np.bool_)

    def keeping(self, max_bytes: int) -> AbstractContextManager[None]:
        """Keep what `generate` has read for prompts that go on from there, in at most `max_bytes`, within a block.

        The weights do not change in the block. By default nothing is kept.
        """
        return nullcontext()

    def micro_batches(self, sequences: Sequence[TokenSequence], *, max_batch_tokens: int) -> "list[NDArray[np.int64]]":
        """Split sequences into micro-batches for which `logprobs` reads at most `max_batch_tokens` tokens.

        Returns arrays of positions. By default B rows count B x longest row; a longer row is a batch of its own.
        """
        lengths = [len(sequence.prompt_ids) + len(sequence.completion_ids) for sequence in sequences]
        return micro_batches(lengths, max_batch_tokens=max_batch_tokens)

    @abstractmethod
    def logprobs(self, sequences: Sequence[TokenSequence], *, temperatures: "NDArray[np.float32]") -> "torch.Tensor":
        """Return the log-probs of the completion tokens at each row's temperature: float32 [rows, longest completion].

        They are of the distribution that the row was sampled from, with its support and its penalty. Positions beyond a
        row's completion hold 0. The result has gradients unless the caller disables them.
        """

    def values(self, sequences: Sequence[TokenSequence]) -> "torch.Tensor":
        """Return the critic's values along each completion: float32 [rows, longest completion + 1].

        Column t is the value before token t of the completion, and the column after the last token that of the whole
        row. Positions beyond it hold 0. The result has gradients unless the caller disables them. Raises `ParamError`
        without a critic.
        """
        raise ParamError(f"policy {self.name!r} has no critic; {NO_CRITIC}")

    def logprobs_and_values(
        self, sequences: Sequence[TokenSequence], *, temperatures: "NDArray[np.float32]"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return `logprobs` and `values` of the same rows, from one forward pass where they share a model."""
        return self.logprobs(sequences, temperatures=temperatures), self.values(sequences)


class VisionPolicy(TextPolicy):
    """A policy over token sequences whose prompts can show an image, encoded as `edge_types.png` writes it."""

    @abstractmethod
    def render_with_image(self, messages: Sequence[dict[str, str]], image: bytes) -> "NDArray[np.int32]":
        """Return the token ids of a chat prompt that shows an image before the text of its last message."""

    @abstractmethod
    def generate_with_images(
        self,
        prompts: "Sequence[NDArray[np.int32]]",
        images: Sequence[bytes],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Sample as `generate` does, for prompts of which each shows an image; b"" for one that shows none."""


def micro_batches(lengths: Sequence[int], *, max_batch_tokens: int) -> "list[NDArray[np.int64]]":
    """Split rows into batches of at most `max_batch_tokens` tokens including padding, shortest rows first.

    Returns arrays of positions. B rows count B x longest row; a row longer than the budget is a batch of its own.
    """
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[list[int]] = []
    for position in order.tolist():
        if batches and (len(batches[-1]) + 1) * lengths[position] <= max_batch_tokens:
            batches[-1].append(position)
        else:
            batches.append([position])
    return [np.asarray(batch, dtype=np.int64) for batch in batches]
