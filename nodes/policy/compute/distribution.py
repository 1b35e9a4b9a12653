"""The distribution that tokens are sampled from: sampling and training make it from logits in the same way.

Ids that the tokenizer does not know are never in it. The order is that of transformers: repetition penalty,
temperature, top-k, top-p, min-p. Sampling computes which ids are left (the support); training gets them with the row,
because other weights would leave other ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from genrl_graph.contract.policy import MOST_SUPPORT, Sampling, TokenSequence

_BLOCK = 1 << 23
"""Most logits (elements) that are turned into probabilities at once."""
_NUCLEUS = 1024
"""Most probable tokens to search for the nucleus before sorting all tokens."""


def penalized(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor | float) -> torch.Tensor:
    """Make ids that a row has already less likely (arXiv 1909.05858): positive logits are divided by the penalty.

    Negative ones are multiplied. `seen` is bool [rows, vocabulary], `penalty` a number or [rows, 1].
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def truncated(scaled: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Set the logits at the sampling temperature to -inf but those that top-k, top-p and min-p leave; ties stay."""
    if 0 < sampling.top_k < scaled.shape[-1]:
        scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p < 1.0:
        scaled = scaled.masked_fill(~_nucleus(scaled.softmax(-1), sampling.top_p), -torch.inf)
    if sampling.min_p > 0.0:
        probs = scaled.softmax(-1)
        least = sampling.min_p * probs.amax(-1, keepdim=True)
        scaled = scaled.masked_fill(probs < least, -torch.inf)
    return scaled


def _nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the mask of the smallest set that holds `top_p` of the mass, including ties."""
    count = min(_NUCLEUS, probs.shape[1])
    ordered = probs.topk(count, dim=-1).values
    if count < probs.shape[1] and bool((ordered.sum(-1) < top_p).any()):
        ordered = probs.sort(dim=-1, descending=True).values
    before = ordered.cumsum(-1) - ordered
    return probs >= ordered.masked_fill(before >= top_p, torch.inf).amin(-1, keepdim=True)


class Choice(NamedTuple):
    """The next token of each row and its log-prob [rows].

    Where the distribution was truncated, `counts` [rows] says how many ids of the flat `support` were left to choose
    from; 0 where there were more than `MOST_SUPPORT`, and the log-prob is that of the whole distribution.
    """

    token: torch.Tensor
    logprob: torch.Tensor
    counts: torch.Tensor | None = None
    support: torch.Tensor | None = None


def choose(
    logits: torch.Tensor,
    uniforms: torch.Tensor | None,
    sampling: Sampling,
    *,
    unknown: torch.Tensor | None = None,
    seen: torch.Tensor | None = None,
) -> Choice:
    """Choose the next token of each row from the distribution that `sampling` makes of the logits.

    Tokens are sampled by inverting the cumulative distribution. `logits` is [rows, vocabulary]; `uniforms` is [rows] in
    [0, 1), None for greedy choice. The ids in `unknown` are not in the distribution; `seen`, bool [rows, vocabulary],
    marks those that the penalty makes less likely.
    """
    size = max(1, _BLOCK // logits.shape[1])
    if len(logits) <= size:
        return _choose(logits, uniforms, sampling, unknown, seen)
    starts = range(0, len(logits), size)
    parts = [
        _choose(
            logits[start : start + size],
            None if uniforms is None else uniforms[start : start + size],
            sampling,
            unknown,
            None if seen is None else seen[start : start + size],
        )
        for start in starts
    ]
    if not sampling.truncates:
        return Choice(*(torch.cat(values) for values in zip(*(part[:2] for part in parts), strict=True)))
    return Choice(*(torch.cat([part[at] for part in parts]) for at in range(4)))  # type: ignore[misc]


def _choose(
    logits: torch.Tensor,
    uniforms: torch.Tensor | None,
    sampling: Sampling,
    unknown: torch.Tensor | None,
    seen: torch.Tensor | None,
) -> Choice:
    scaled = logits.float()
    if seen is not None:
        scaled = penalized(scaled, seen, sampling.repetition_penalty)
    if uniforms is not None and sampling.temperature != 1.0:
        scaled = scaled / sampling.temperature
    if unknown is not None:
        scaled = scaled.index_fill(-1, unknown, -torch.inf)
    if uniforms is None:
        token = scaled.argmax(-1)
        return Choice(token, _logprob(scaled, token))
    if not sampling.truncates:
        normalizer = scaled.logsumexp(-1, keepdim=True)
        token = _invert((scaled - normalizer).exp_().cumsum(-1), uniforms)
        return Choice(token, scaled.gather(-1, token[:, None])[:, 0] - normalizer[:, 0])
    left = truncated(scaled, sampling)
    token = _invert(left.softmax(-1).cumsum(-1), uniforms)
    in_support = left > -torch.inf
    counts = in_support.sum(-1)
    recorded = counts <= MOST_SUPPORT
    logprob = torch.where(recorded, _logprob(left, token), _logprob(scaled, token))
    support = (in_support & recorded[:, None]).nonzero()[:, 1]
    return Choice(token, logprob, counts * recorded, support)


def _logprob(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, token[:, None])[:, 0] - logits.logsumexp(-1)


def _invert(cumulative: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the first token whose cumulative mass exceeds uniform x total; tokens without mass are never chosen."""
    total = cumulative[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(uniforms * total, below)
    token = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return token.clamp_(max=cumulative.shape[1] - 1)  # out of range only for NaN logits, which the caller refuses


@dataclass(frozen=True, slots=True)
class Places:
    """The options that make logits the distributions of completion tokens, place by place: row by row, in order.

    Attributes:
        temperature: Of each place, on the host, so that testing whether all are 1 does not wait for the device.
        unknown: Ids that are in no distribution.
        first: First position of each id in each row [rows, vocabulary], where a row has a penalty.
        row: Row of each place.
        position: Position of each place's token in its row.
        penalty: Repetition penalty of each place.
        counts: Number of ids that could be sampled at each place, 0 for all, where a row has a support.
        ids: These ids, place by place.
    """

    temperature: torch.Tensor
    unknown: torch.Tensor | None = None
    first: torch.Tensor | None = None
    row: torch.Tensor | None = None
    position: torch.Tensor | None = None
    penalty: torch.Tensor | None = None
    counts: torch.Tensor | None = None
    ids: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        sequences: Sequence[TokenSequence],
        temperatures: NDArray[np.float32],
        *,
        vocab_size: int,
        unknown: torch.Tensor | None,
        device: torch.device,
    ) -> "Places":
        """Return the places of the completions; greedy rows, with temperature 0, count as 1."""
        lengths = [len(sequence.completion_ids) for sequence in sequences]
        row = np.repeat(np.arange(len(sequences)), lengths)
        temperature = torch.from_numpy(np.where(temperatures > 0, temperatures, 1.0).astype(np.float32)[row])
        first = position = penalty = counts = ids = None
        if any(sequence.repetition_penalty != 1.0 for sequence in sequences):
            first = _first_positions(sequences, vocab_size, device)
            starts = [np.arange(length) + len(s.prompt_ids) for length, s in zip(lengths, sequences, strict=True)]
            position = torch.from_numpy(np.concatenate(starts)).to(device)
            penalties = np.array([sequence.repetition_penalty for sequence in sequences], np.float32)[row]
            penalty = torch.from_numpy(penalties).to(device)
        if any(sequence.support is not None for sequence in sequences):
            counts, ids = _supports(sequences, device)
        rows = torch.from_numpy(row).to(device)
        return cls(temperature, unknown, first, rows, position, penalty, counts, ids)

    def split(self, size: int) -> "list[Places]":
        """Return the places in blocks of at most `size`."""
        blocks = -(-len(self.temperature) // size)
        of_places = [
            [None] * blocks if part is None else list(torch.split(part, size))
            for part in (self.row, self.position, self.penalty, self.counts)
        ]
        ids: list[torch.Tensor | None] = [None] * blocks
        if self.ids is not None and self.counts is not None:
            ids = list(torch.split(self.ids, [int(part.sum()) for part in torch.split(self.counts, size)]))
        parts = zip(torch.split(self.temperature, size), *of_places, ids, strict=True)
        return [
            Places(temperature, self.unknown, self.first, row, position, penalty, counts, of_block)
            for temperature, row, position, penalty, counts, of_block in parts
        ]

    def logprobs(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the log-prob of each place's token: `logits` is [places, vocabulary], `target` [places]."""
        scaled = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.first is not None and self.row is not None and self.position is not None and self.penalty is not None:
            seen = self.first[self.row] < self.position[:, None]
            seen = pad(seen, (0, scaled.shape[1] - seen.shape[1]))  # an output layer may have more ids than the input
            scaled = penalized(scaled, seen, self.penalty[:, None])
        if not bool((self.temperature == 1).all()):
            scaled = scaled / self.temperature[:, None].to(scaled.device)
        if self.unknown is not None:
            scaled = scaled.index_fill(-1, self.unknown, -torch.inf)
        if self.counts is not None and self.ids is not None:
            allowed = torch.zeros_like(scaled, dtype=torch.bool)
            places = torch.arange(len(scaled), device=scaled.device).repeat_interleave(self.counts)
            allowed[places, self.ids] = True
            scaled = scaled.masked_fill(~(allowed | (self.counts == 0)[:, None]), -torch.inf)
        return scaled.gather(-1, target[:, None])[:, 0] - scaled.logsumexp(-1)


def _first_positions(sequences: Sequence[TokenSequence], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Return the first position of each id in each row, beyond every position where a row lacks it."""
    first = np.full((len(sequences), vocab_size), np.iinfo(np.int32).max, np.int32)
    for row, sequence in enumerate(sequences):
        ids = np.concatenate([sequence.prompt_ids, sequence.completion_ids])
        known = np.flatnonzero(ids < vocab_size)[::-1]
        first[row, ids[known]] = known  # of equal ids the last assignment stays: the first position
    return torch.from_numpy(first).to(device)


def _supports(sequences: Sequence[TokenSequence], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the counts of all places and their ids; a row without a support counts 0."""
    counts = [
        np.zeros(len(s.completion_ids), np.int64) if s.support is None else s.support.counts.astype(np.int64)
        for s in sequences
    ]
    ids = [s.support.ids.astype(np.int64) for s in sequences if s.support is not None]
    return torch.from_numpy(np.concatenate(counts)).to(device), torch.from_numpy(np.concatenate(ids)).to(device)
