"""Sampling several completions of a prompt while its keys and values are in memory only once."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import DynamicCache


class SharedPrompts:
    """Keys and values of prompts, stored once per prompt and layer, for rows of which several have the same prompt.

    The attention of a new token is one softmax over its scores with the prompt and with the row's own tokens, in
    float32; it is exact up to rounding. All prompts are multiplied at once, padded to the longest (as in arXiv
    2402.05099). `layers` holds, for each layer, keys and values [heads, length, size] of each prompt; row i has prompt
    `rows[i]`.
    """

    def __init__(self, layers: Iterable[Sequence[tuple[torch.Tensor, torch.Tensor]]], rows: torch.Tensor) -> None:
        lengths: Sequence[int] = ()
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        for prompts in layers:
            lengths = [key.shape[1] for key, _ in prompts]
            self._layers.append((_padded([key for key, _ in prompts]), _padded([value for _, value in prompts])))
        self._bias = _padding_bias(lengths, rows.device)
        self._assign_slots(rows)

    @classmethod
    def of(cls, cache: DynamicCache, places: Sequence[tuple[int, torch.Tensor]], rows: torch.Tensor) -> "SharedPrompts":
        """Take the prompts from a cache that has read them: `places[i]` is the cache row of prompt i and its places."""

        def prompts(layer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
            # round keys to the dtype of the values, as attention does under autocast in a training pass
            keys, values = layer.keys.to(layer.values.dtype), layer.values
            return [(keys[row].index_select(1, at), values[row].index_select(1, at)) for row, at in places]

        return cls(map(prompts, cache.layers), rows)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these, and the prompts that no row has any more."""
        prompt_of_row = self._rows[rows]
        used = torch.bincount(prompt_of_row).nonzero()[:, 0]
        if len(used) < len(self._layers[0][0]):
            self._layers = [(keys[used], values[used]) for keys, values in self._layers]
            self._bias = None if self._bias is None else self._bias[used]
            prompt_of_row = torch.searchsorted(used, prompt_of_row)
        self._assign_slots(prompt_of_row)

    def _assign_slots(self, rows: torch.Tensor) -> None:
        """Assign rows to slots; slots per prompt = rows of the most-used prompt."""
        self._rows = rows
        counts = torch.bincount(rows, minlength=len(self._layers[0][0]))
        self._slots = int(counts.max())
        order, numbers = rows.argsort(stable=True), torch.arange(len(rows), device=rows.device)
        slots = rows[order] * self._slots + numbers - (counts.cumsum(0) - counts)[rows[order]]
        self._slot_of_row = torch.empty_like(slots).index_put_((order,), slots)
        self._row_of_slot: torch.Tensor | None = None  # None: row i has slot i
        if len(rows) < len(counts) * self._slots or not torch.equal(order, numbers):
            self._row_of_slot = torch.zeros(len(counts) * self._slots, dtype=torch.int64, device=rows.device)
            self._row_of_slot[slots] = order  # empty slots repeat row 0; their results are not used

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Compute attention [rows, heads, 1, size] of one token per row to its prompt and the row's own tokens so far.

        `key` and `value` [rows, shared heads, own tokens, size] are those of the row's own tokens.
        """
        rows, heads, _, size = query.shape
        shared = key.shape[1]
        keys, values = self._layers[layer]
        with torch.autocast(query.device.type, enabled=False):
            scaled = (query.float() * (size**-0.5 if scaling is None else scaling)).view(rows, shared, -1, size)
            own = self._by_slot(scaled @ key.float().transpose(-1, -2))
            scores = self._by_slot(scaled).flatten(2, 3) @ keys.transpose(-1, -2)
            if self._bias is not None:
                scores += self._bias
            weights = torch.cat([scores.view(*own.shape[:-1], -1), own], dim=-1).softmax(-1)
            of_prompt, of_own = weights[..., : keys.shape[2]], weights[..., keys.shape[2] :]
            output = self._by_row((of_prompt.flatten(2, 3) @ values).view(*own.shape[:-1], value.shape[-1]))
            output += self._by_row(of_own) @ value.float()
        return output.reshape(rows, heads, 1, value.shape[-1]).to(value.dtype)

    def _by_slot(self, part: torch.Tensor) -> torch.Tensor:
        """Reshape [rows, shared heads, a, b] to [prompts, shared heads, slots, a, b]."""
        part = part if self._row_of_slot is None else part[self._row_of_slot]
        return part.view(-1, self._slots, *part.shape[1:]).transpose(1, 2)

    def _by_row(self, part: torch.Tensor) -> torch.Tensor:
        """Reshape [prompts, shared heads, slots, a, b] to [rows, shared heads, a, b]."""
        part = part.transpose(1, 2).flatten(0, 1)
        return part if self._row_of_slot is None else part[self._slot_of_row]


def _padded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors [heads, length, size] as float32 [parts, heads, longest, size], padded with 0."""
    heads, _, size = parts[0].shape
    padded = torch.zeros((len(parts), heads, max(part.shape[1] for part in parts), size), device=parts[0].device)
    for into, part in zip(padded, parts, strict=True):
        into[:, : part.shape[1]] = part
    return padded


def _padding_bias(lengths: Sequence[int], device: torch.device) -> torch.Tensor | None:
    """Return the bias of scores [prompts, 1, 1, longest], -inf on padding, or None if all lengths are equal."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    beyond = torch.arange(longest, device=device) >= torch.tensor(lengths, device=device)[:, None]
    return torch.zeros(beyond.shape, device=device).masked_fill_(beyond, -torch.inf)[:, None, None]
