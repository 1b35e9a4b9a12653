"""Stand-ins of a rehearsal: a policy that only counts tokens, random rewards, and the assumptions behind both."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph import seeds
from genrl_graph.contract.policy import Completion, Randomness, Sampling, TextPolicy, TokenSequence
from genrl_graph.edge_types.frame import Frame
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.kv_session import KvSession, Past
from genrl_graph.nodes.policy.compute.logprobs import read_of
from genrl_graph.nodes.policy.compute.packing import Packed, packed_batches
from genrl_graph.nodes.policy.compute.sampling import token_batches
from genrl_graph.nodes.policy.compute.turn_tokens import TurnTokens
from genrl_graph.nodes.policy.critic_params import CriticParams
from genrl_graph.runners.estimate.costs import MicroBatchWork, SequenceBatch, Work, longest_of, varied_share

WORDS = ("the", "of", "and", "to", "in", "is", "it", "that", "was", "for", "on", "are", "as", "with", "they", "be")


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Assumptions about a run: the mean completion length, and the share of groups with reward variance.

    The length of a node is `observed[node]`, else `tokens`, else the share `share` of its `max_new_tokens`. The share
    of groups is `varied`, or where that is None it follows from solve probabilities with distribution
    Beta(prior, prior).
    """

    share: float
    prior: float
    tokens: float | None = None
    observed: Mapping[str, float] = field(default_factory=dict)
    varied: float | None = None

    def length(self, node: str, most: int) -> float:
        """Return the mean completion length of a node, from 1 to `most` tokens."""
        mean = self.observed.get(node, self.tokens if self.tokens is not None else self.share * most)
        return float(min(max(mean, 1.0), most))


class CountingPolicy(TextPolicy):
    """A policy without weights: it tokenises prompts, answers with common words, and records the work in `works`.

    `length` returns the mean completion length for a limit of tokens; `shares` says that common prefixes of rows are
    read once.
    """

    def __init__(
        self,
        name: str,
        tokens: ChatTokens,
        *,
        context: int,
        shares: bool = False,
        critic: CriticParams | None = None,
    ) -> None:
        self.name, self.version, self.critic = name, 0, critic
        self.tokenizer_fingerprint, self.context_length, self.vocab_size = (
            tokens.fingerprint,
            context,
            len(tokens.tokenizer),
        )
        self.length: Callable[[int], float] = float
        self.works: list[Work] = []
        self.prompt_tokens, self.sampled = 0, 0.0
        self._tokens, self._shares = tokens, shares
        self._session: KvSession | None = None
        self._session_bytes = 0
        self._turns = TurnTokens(tokens, ends=[tokens.end_of_turn])
        self._words = _single_tokens(tokens.tokenizer)

    def render(self, messages: Sequence[dict[str, str]]) -> NDArray[np.int32]:
        """Return the token ids of a chat."""
        return self._tokens.render(messages)

    def extend(
        self, ids: NDArray[np.int32], messages: Sequence[dict[str, str]], new: Sequence[dict[str, str]]
    ) -> NDArray[np.int32]:
        """Return the ids of the next prompt of a chat."""
        return self._turns.extend(ids, messages, new)

    def encode(self, text: str, *, ended: bool) -> NDArray[np.int32]:
        """Return the token ids of a text, with the end token where it `ended`."""
        return self._tokens.encode(text, ended=ended)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self._tokens.texts([list(map(int, ids))], ends=[self._tokens.end_of_turn])[0]

    def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        *,
        num_generations: int,
        sampling: Sampling,
        rng: Randomness,
        max_batch_tokens: int,
    ) -> list[list[Completion]]:
        """Return completions of the assumed length, and record the batches in which they would be sampled."""
        mean = self.length(sampling.max_new_tokens)
        count = max(round(mean), 1)
        each = [rng] * len(prompts) if isinstance(rng, np.random.Generator) else rng
        completions = [[self._completion(count, one) for _ in range(num_generations)] for one in each]
        owned = [prompt for prompt in prompts for _ in range(num_generations)]
        pasts = [None] * len(owned) if self._session is None else self._session.pasts(owned)
        known = np.array([0 if past is None else past.length for past in pasts], np.int64)
        widths = np.array([len(prompt) for prompt in owned], np.int64)
        batches = []
        for part in (np.flatnonzero(known == 0), np.flatnonzero(known)):  # those with a past are read apart
            for at in token_batches(widths[part] + sampling.max_new_tokens, max_batch_tokens):
                batches.append(self._batch([owned[i] for i in part[at]], known[part[at]], sampling, mean))
        kept = 0
        if self._session is not None:
            rows = [np.concatenate([p, c.ids]) for p, each in zip(prompts, completions, strict=True) for c in each]
            for row, length in zip(rows, known.tolist(), strict=True):
                self._session.keep(row, Past(len(row), ()), grown_from=length)
            kept = self._session.tokens
        self.works.append(Work(self.name, batches=tuple(batches), kept=kept, kept_bytes=self._session_bytes))
        self.prompt_tokens += sum(len(prompt) for prompt in prompts)
        self.sampled += len(owned) * mean
        return completions

    def _batch(
        self, prompts: Sequence[NDArray[np.int32]], known: NDArray[np.int64], sampling: Sampling, mean: float
    ) -> SequenceBatch:
        """Return a batch of rows that are sampled together; the first `known` tokens of each were read before."""
        most, rows, width = sampling.max_new_tokens, len(prompts), max(map(len, prompts))
        distinct = {prompt.tobytes(): prompt for prompt in prompts}
        new = sum(map(len, prompts)) - int(known.sum())
        read = new / width if known.any() else self._rows(list(distinct.values()), width)
        return SequenceBatch(rows, read, width, most, longest_of(rows, mean, most), rows * mean)

    @contextmanager
    def keeping(self, max_bytes: int) -> Iterator[None]:
        """Count only what is new in prompts whose beginning was read since the block began."""
        self._session, self._session_bytes = KvSession(sys.maxsize), max_bytes
        try:
            yield
        finally:
            self._session, self._session_bytes = None, 0

    def _completion(self, count: int, rng: np.random.Generator) -> Completion:
        ids = rng.choice(self._words, size=count).astype(np.int32)
        return Completion(ids, np.full(count, -1.0, np.float32), self.decode(ids.tolist()), "stop")

    def logprobs(self, sequences: Sequence[TokenSequence], *, temperatures: NDArray[np.float32]) -> torch.Tensor:
        """Return zeros, for nodes of your own that ask, and record the forward pass."""
        longest = max((len(sequence.completion_ids) for sequence in sequences), default=0)
        self.works.append(Work(self.name, forwards=(self.micro(sequences),)))
        return torch.zeros(len(sequences), longest)

    @property
    def has_critic(self) -> bool:
        """True if the policy that this one stands for has a critic."""
        return self.critic is not None

    def values(self, sequences: Sequence[TokenSequence]) -> torch.Tensor:
        """Return zeros, and record the forward pass, which computes no logits."""
        read = self.micro(sequences)
        self.works.append(Work(self.name, forwards=(MicroBatchWork(read.rows, read.width, 0),)))
        return torch.zeros(len(sequences), 1 + max((len(s.completion_ids) for s in sequences), default=0))

    def micro_batches(self, sequences: Sequence[TokenSequence], *, max_batch_tokens: int) -> list[NDArray[np.int64]]:
        """Return the micro-batches of the policy that this one stands for, as positions."""
        if not self._shares:
            return super().micro_batches(sequences, max_batch_tokens=max_batch_tokens)
        return packed_batches([read_of(sequence) for sequence in sequences], max_tokens=max_batch_tokens)

    def micro(self, sequences: Sequence[TokenSequence]) -> MicroBatchWork:
        """Return the work of training on these sequences in one micro-batch."""
        width = max((len(s.prompt_ids) + len(s.completion_ids) for s in sequences), default=0)
        rows = self._rows([read_of(sequence) for sequence in sequences], width)
        return MicroBatchWork(rows, width, sum(len(s.completion_ids) for s in sequences))

    def _rows(self, sequences: Sequence[NDArray[np.int32]], width: int) -> float:
        """Return the number of rows of `width` tokens that these sequences fill, with shared prefixes counted once."""
        if not self._shares or not sequences:
            return len(sequences)
        return len(Packed.of(sequences).ids) / width

    def backward(self, loss: torch.Tensor) -> None:
        """Do nothing: there are no weights."""

    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """Do nothing and return a gradient norm of 0."""
        return 0.0

    def fork(self, name: str) -> Self:
        """Return a policy with counts of its own."""
        return type(self)(name, self._tokens, context=self.context_length, shares=self._shares, critic=self.critic)

    def save(self, folder: Path) -> None:
        """Do nothing: there are no weights."""

    def load(self, folder: Path) -> None:
        """Do nothing: there are no weights."""

    def digest(self) -> str:
        """Return a digest of the name."""
        return seeds.digest((self.name,))


def _single_tokens(tokenizer: Any) -> list[int]:
    """Return the ids of common words that are one token each; else those of letters; else any that are not special."""
    singles: list[int] = []
    for texts in ([f" {word}" for word in WORDS], "abcdefgh 0123456789"):
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                singles.append(ids[0])
        if singles:
            return singles
    special = set(tokenizer.all_special_ids)
    return [at for at in range(len(tokenizer)) if at not in special][:16]


class RandomRewards:
    """Rewards of 0 and 1 in which the assumed share of groups has variance, evenly spread over the groups."""

    def __init__(self, assumed: Assumptions) -> None:
        self._assumed = assumed
        self._fraction, self._groups = 0.5, 0

    def rewards(self, rows: Frame) -> NDArray[np.float64]:
        """Return a reward for each row, shape (rows,): alternating in a group with variance, else all equal."""
        groups = rows.values("group_id") if "group_id" in rows.table.column_names else ["all"] * len(rows)
        places: dict[str, list[int]] = {}
        for at, group in enumerate(groups):
            places.setdefault(group, []).append(at)
        rewards = np.zeros(len(rows))
        for members in places.values():
            size, known = len(members), self._assumed.varied
            share = varied_share(size, self._assumed.prior) if known is None else known
            self._fraction += share if size > 1 else 0.0
            varies, self._groups = self._fraction >= 1.0, self._groups + 1
            self._fraction -= varies
            rewards[members] = np.arange(size) % 2 if varies else self._groups % 2
        return rewards
