"""Prompts whose completions are sampled together: their keys and values lie in memory once, not once a completion."""

from collections.abc import Sequence
from itertools import groupby

import torch
from transformers import DynamicCache


class SharedPrompts:
    """What the layers of a model keep of prompts, for rows of which many have the same one.

    Attention of a new token is that of the prompt and that of the row's own tokens, joined by their normalisers
    (arXiv 2402.05099 calls this a batch with a shared prefix), computed in float32: exact, but for rounding.
    `layers` has, for every layer, keys and values [heads, length, size] of each prompt; row i has prompt `rows[i]`.
    """

    def __init__(self, layers: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]], rows: torch.Tensor) -> None:
        self._layers = layers
        self._rows = rows
        self._runs = _runs(rows)

    @classmethod
    def of(cls, cache: DynamicCache, places: Sequence[tuple[int, torch.Tensor]], rows: torch.Tensor) -> "SharedPrompts":
        """Those of a cache that has read them: prompt i lies in a row of the cache, at some places."""
        layers = []
        for layer in cache.layers:
            # keys as attention of a training pass sees them: under autocast rounded to the type of the values
            parts = [part.to(layer.values.dtype) for part in (layer.keys, layer.values)]
            kept = [tuple(part[row].index_select(1, at).float() for part in parts) for row, at in places]
            layers.append(kept)
        return cls(layers, rows)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        self._rows = self._rows[rows]
        self._runs = _runs(self._rows)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Attention [rows, heads, 1, size] of a token a row to its prompt and to its own tokens so far.

        `key` and `value` [rows, shared heads, own tokens, size] are those of the own tokens.
        """
        rows, heads, _, size = query.shape
        shared = key.shape[1]
        scale = size**-0.5 if scaling is None else scaling
        with torch.autocast(query.device.type, enabled=False):
            asked = (query.float() * scale).view(rows, shared, heads // shared, size)
            own, own_total = _attention(asked, key.float(), value.float())
            prompt, prompt_total = torch.empty_like(own), torch.empty_like(own_total)
            for number, start, stop in self._runs:
                keys, values = self._layers[layer][number]
                together = asked[start:stop].transpose(0, 1).reshape(shared, -1, size)
                found, total = _attention(together, keys, values)
                prompt[start:stop] = found.view(shared, stop - start, -1, size).transpose(0, 1)
                prompt_total[start:stop] = total.view(shared, stop - start, -1, 1).transpose(0, 1)
            joined = own.lerp(prompt, torch.sigmoid(prompt_total - own_total))
        return joined.view(rows, heads, 1, size).to(value.dtype)


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to all keys, and the logarithm of its normaliser."""
    scores = query @ key.transpose(-1, -2)
    total = scores.logsumexp(-1, keepdim=True)
    return (scores - total).exp_() @ value, total


def _runs(rows: torch.Tensor) -> list[tuple[int, int, int]]:
    """Each prompt of consecutive rows, where these begin, and where they end."""
    runs, start = [], 0
    for prompt, group in groupby(rows.tolist()):
        stop = start + sum(1 for _ in group)
        runs.append((prompt, start, stop))
        start = stop
    return runs
