"""Prompts whose completions are sampled together: their keys and values lie in memory once, not once a completion."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import DynamicCache


class SharedPrompts:
    """What the layers of a model keep of prompts, for rows of which many have the same one.

    Attention of a new token to its prompt and to the row's own tokens is one softmax over the scores of both, in
    float32: exact, but for rounding. All prompts are one product, shorter ones padded (arXiv 2402.05099 multiplies so
    what rows share). `layers` has, for every layer, keys and values [heads, length, size] of each prompt; row i has
    prompt `rows[i]`.
    """

    def __init__(self, layers: Iterable[Sequence[tuple[torch.Tensor, torch.Tensor]]], rows: torch.Tensor) -> None:
        lengths: Sequence[int] = ()
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        for kept in layers:
            lengths = [key.shape[1] for key, _ in kept]
            self._layers.append((_padded([key for key, _ in kept]), _padded([value for _, value in kept])))
        self._bias = _bias(lengths, rows.device)
        self._seat(rows)

    @classmethod
    def of(cls, cache: DynamicCache, places: Sequence[tuple[int, torch.Tensor]], rows: torch.Tensor) -> "SharedPrompts":
        """Those of a cache that has read them: prompt i lies in a row of the cache, at some places."""

        def kept(layer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
            # keys as attention of a training pass sees them: under autocast rounded to the type of the values
            keys, values = layer.keys.to(layer.values.dtype), layer.values
            return [(keys[row].index_select(1, at), values[row].index_select(1, at)) for row, at in places]

        return cls(map(kept, cache.layers), rows)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, and of the prompts those that have one."""
        of_prompt = self._rows[rows]
        left = torch.bincount(of_prompt).nonzero()[:, 0]
        if len(left) < len(self._layers[0][0]):
            self._layers = [(keys[left], values[left]) for keys, values in self._layers]
            self._bias = None if self._bias is None else self._bias[left]
            of_prompt = torch.searchsorted(left, of_prompt)
        self._seat(of_prompt)

    def _seat(self, rows: torch.Tensor) -> None:
        """Give every row one of as many seats as the prompt with most rows has: no more than when all rows ran."""
        self._rows = rows
        counts = torch.bincount(rows, minlength=len(self._layers[0][0]))
        self._seats = int(counts.max())
        order, numbers = rows.argsort(stable=True), torch.arange(len(rows), device=rows.device)
        taken = rows[order] * self._seats + numbers - (counts.cumsum(0) - counts)[rows[order]]
        self._places = torch.empty_like(taken).index_put_((order,), taken)
        self._row_at: torch.Tensor | None = None
        if len(rows) < len(counts) * self._seats or not torch.equal(order, numbers):
            self._row_at = torch.zeros(len(counts) * self._seats, dtype=torch.int64, device=rows.device)
            self._row_at[taken] = order  # a seat that nobody has computes what row 0 asks

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Attention [rows, heads, 1, size] of a token a row to its prompt and to its own tokens so far.

        `key` and `value` [rows, shared heads, own tokens, size] are those of the own tokens.
        """
        rows, heads, _, size = query.shape
        shared = key.shape[1]
        keys, values = self._layers[layer]
        with torch.autocast(query.device.type, enabled=False):
            asked = (query.float() * (size**-0.5 if scaling is None else scaling)).view(rows, shared, -1, size)
            own = self._seated(asked @ key.float().transpose(-1, -2))
            scores = self._seated(asked).flatten(2, 3) @ keys.transpose(-1, -2)
            if self._bias is not None:
                scores += self._bias
            both = torch.cat([scores.view(*own.shape[:-1], -1), own], dim=-1).softmax(-1)
            told, owned = both[..., : keys.shape[2]], both[..., keys.shape[2] :]
            found = self._by_row((told.flatten(2, 3) @ values).view(*own.shape[:-1], size))
            found += self._by_row(owned) @ value.float()
        return found.reshape(rows, heads, 1, size).to(value.dtype)

    def _seated(self, part: torch.Tensor) -> torch.Tensor:
        """[rows, shared heads, a, b] as [prompts, shared heads, seats, a, b]."""
        part = part if self._row_at is None else part[self._row_at]
        return part.view(-1, self._seats, *part.shape[1:]).transpose(1, 2)

    def _by_row(self, part: torch.Tensor) -> torch.Tensor:
        """[prompts, shared heads, seats, a, b] as [rows, shared heads, a, b]."""
        part = part.transpose(1, 2).flatten(0, 1)
        return part if self._row_at is None else part[self._places]


def _padded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors [heads, length, size] as float32 [parts, heads, longest, size]."""
    heads, _, size = parts[0].shape
    padded = torch.zeros((len(parts), heads, max(part.shape[1] for part in parts), size), device=parts[0].device)
    for into, part in zip(padded, parts, strict=True):
        into[:, : part.shape[1]] = part
    return padded


def _bias(lengths: Sequence[int], device: torch.device) -> torch.Tensor | None:
    """What is added to scores [prompts, 1, 1, longest]: -inf beyond a prompt; None where all are equally long."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    beyond = torch.arange(longest, device=device) >= torch.tensor(lengths, device=device)[:, None]
    return torch.zeros(beyond.shape, device=device).masked_fill_(beyond, -torch.inf)[:, None, None]
