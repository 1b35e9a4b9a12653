"""Preallocated key-value caches for sampling: room for all new tokens, so each token is written in place."""

import inspect
from collections.abc import Callable, Sequence
from functools import cache as memoize
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Fill = Callable[[torch.Tensor, torch.Tensor], None]
"""Copies keys or values of a cache layer into a new buffer."""


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A full-attention cache layer with room for new tokens, made from a layer that has read the prompts.

    `fill` copies the keys, and then the values, into a buffer [rows, heads, `length` + `room`, size]. Keys are cast to
    the dtype of the values, in which attention computes; under autocast this halves their memory.
    """

    def __init__(self, layer: DynamicLayer, fill: Fill, *, rows: int, length: int, room: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.length = length
        self.buffers = [
            self._buffer(part, fill, rows, length + room, layer.values.dtype) for part in (layer.keys, layer.values)
        ]
        self._expose()

    @staticmethod
    def _buffer(part: torch.Tensor, fill: Fill, rows: int, length: int, dtype: torch.dtype) -> torch.Tensor:
        _, heads, _, size = part.shape
        buffer = torch.empty((rows, heads, length, size), dtype=dtype, device=part.device)
        fill(part, buffer)
        return buffer

    def _expose(self) -> None:
        """Let `keys` and `values`, which attention reads, be the filled part of the buffers."""
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the keys and values of the next tokens; returns all keys and values so far."""
        end = self.length + key_states.shape[-2]
        for buffer, part in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.length : end] = part
        self.length = end
        self._expose()
        return self.keys, self.values

    def reorder_cache(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        length = self.buffers[0].shape[-2]
        filled = (self.keys, self.values)
        self.buffers = [self._buffer(part, _select(indices), len(indices), length, part.dtype) for part in filled]
        self._expose()


def cache_argument(model: torch.nn.Module, cache: DynamicCache | None) -> dict[str, DynamicCache | None]:
    """Return the keyword argument that passes a cache to a model.

    transformers 5.24 renamed it from `past_key_values`, and `cache_params` of state-space models, to `cache`; some
    models' own code still has the old name.
    """
    names = _keywords(model)
    return {next((name for name in ("cache", "cache_params") if name in names), "past_key_values"): cache}


def position_argument(model: torch.nn.Module, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the keyword argument that passes positions to a model, none if it has no positions."""
    return {"position_ids": positions} if "position_ids" in _keywords(model) else {}


def _keywords(model: torch.nn.Module) -> frozenset[str]:
    """Return the parameters of a model's `forward`; of a wrapper that passes all on, those of the module in it."""
    names = _parameters(cast(Any, type(model)))
    inner = list(model.children())
    return _keywords(inner[0]) if names <= {"self", "args", "kwargs"} and len(inner) == 1 else names


@memoize
def _parameters(model_class: Any) -> frozenset[str]:
    return frozenset(inspect.signature(model_class.forward).parameters)


def keep_rows(cache: DynamicCache, rows: torch.Tensor) -> None:
    """Keep only these rows of a cache, whatever its layers hold: keys and values, windows or recurrent states."""
    for layer in cache.layers:
        layer.reorder_cache(rows)


def expand_rows(cache: DynamicCache, rows: torch.Tensor, room: int) -> None:
    """Replace the rows of a cache by copies: row i becomes a copy of row rows[i], with room for `room` more tokens."""
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.get_seq_length() > 0:
            length = int(layer.keys.shape[-2])
            cache.layers[index] = PreallocatedLayer(layer, _select(rows), rows=len(rows), length=length, room=room)
        else:  # sliding windows and recurrent states have layers of their own kinds
            layer.reorder_cache(rows)


def expand_paths(cache: DynamicCache, paths: Sequence[NDArray[np.int64]], rows: torch.Tensor, room: int) -> None:
    """Unpack a cache that has read a packed row: row i becomes sequence rows[i], left-padded with 0.

    `paths` holds the places of each sequence; each row has room for `room` more tokens.
    """
    length = max(map(len, paths))
    owners = [torch.nonzero(rows == sequence)[:, 0] for sequence in range(len(paths))]
    places = [torch.from_numpy(path).to(rows.device) for path in paths]

    def fill(part: torch.Tensor, buffer: torch.Tensor) -> None:
        buffer[:, :, :length] = 0
        for place, own in zip(places, owners, strict=True):
            buffer[own, :, length - len(place) : length] = part[0].index_select(1, place).to(buffer.dtype)

    for index, layer in enumerate(cache.layers):
        cache.layers[index] = PreallocatedLayer(layer, fill, rows=len(rows), length=length, room=room)


def reset_rows(cache: DynamicCache, rows: int, room: int) -> None:
    """Replace the content of a cache by `rows` empty rows, each with room for `room` tokens."""
    for index, layer in enumerate(cache.layers):
        cache.layers[index] = PreallocatedLayer(layer, lambda part, buffer: None, rows=rows, length=0, room=room)


def _select(rows: torch.Tensor) -> Fill:
    def fill(part: torch.Tensor, buffer: torch.Tensor) -> None:
        buffer[:, :, : part.shape[-2]] = part[rows]

    return fill
