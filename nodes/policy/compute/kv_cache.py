"""The key-value cache of a batch that grows: room for all tokens to come, so that a token is written, not appended."""

import inspect
from collections.abc import Callable, Sequence
from functools import cache as remember
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Read = Callable[[torch.Tensor, torch.Tensor], None]


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer of one kind of attention over all tokens, made of one that has read the prompts.

    `read` copies its keys, and its values, into a tensor [rows, heads, `length` + `room`, size].
    Keys take the type of the values, which is what attention computes in: under autocast half of the memory.
    """

    def __init__(self, layer: DynamicLayer, read: Read, *, rows: int, length: int, room: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.length = length
        self.buffers = [
            self._with_room(part, read, rows, length + room, layer.values.dtype) for part in (layer.keys, layer.values)
        ]
        self._show()

    @staticmethod
    def _with_room(part: torch.Tensor, read: Read, rows: int, length: int, dtype: torch.dtype) -> torch.Tensor:
        _, heads, _, size = part.shape
        buffer = torch.empty((rows, heads, length, size), dtype=dtype, device=part.device)
        read(part, buffer)
        return buffer

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self.buffers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next tokens; returns all keys and values so far."""
        end = self.length + key_states.shape[-2]
        for buffer, part in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.length : end] = part
        self.length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        length = self.buffers[0].shape[-2]
        shown = (self.keys, self.values)
        self.buffers = [self._with_room(part, _rows(indices), len(indices), length, part.dtype) for part in shown]
        self._show()


def cache_argument(model: torch.nn.Module, cache: DynamicCache | None) -> dict[str, DynamicCache | None]:
    """Return the keyword argument that hands a cache to a model: `cache` since transformers 5.24, which renamed it.

    Models of before, and models whose own code was not renamed, take `past_key_values`.
    """
    model_class: Any = type(model)
    return {_cache_keyword(model_class): cache}


@remember
def _cache_keyword(model_class: Any) -> str:
    return "cache" if "cache" in inspect.signature(model_class.forward).parameters else "past_key_values"


def spread(cache: DynamicCache, rows: torch.Tensor, room: int) -> None:
    """Make row i of the cache a copy of its row rows[i], with room for `room` more tokens."""
    for at, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.get_seq_length() > 0:
            length = int(layer.keys.shape[-2])
            cache.layers[at] = RoomyLayer(layer, _rows(rows), rows=len(rows), length=length, room=room)
        else:  # windows and states of other kinds keep their own layers
            layer.batch_select_indices(rows)


def spread_paths(cache: DynamicCache, paths: Sequence[NDArray[np.int64]], rows: torch.Tensor, room: int) -> None:
    """Make row i of a cache that has read packed sequences that of sequence rows[i], left-padded with 0."""
    length = max(map(len, paths))
    owners = [torch.nonzero(rows == sequence)[:, 0] for sequence in range(len(paths))]
    places = [torch.from_numpy(path).to(rows.device) for path in paths]

    def read(part: torch.Tensor, buffer: torch.Tensor) -> None:
        buffer[:, :, :length] = 0
        for place, own in zip(places, owners, strict=True):
            buffer[own, :, length - len(place) : length] = part[0].index_select(1, place).to(buffer.dtype)

    for at, layer in enumerate(cache.layers):
        cache.layers[at] = RoomyLayer(layer, read, rows=len(rows), length=length, room=room)


def begin_rows(cache: DynamicCache, rows: int, room: int) -> None:
    """Make the cache one of so many rows that hold no token yet, with room for `room`."""
    for at, layer in enumerate(cache.layers):
        cache.layers[at] = RoomyLayer(layer, lambda part, buffer: None, rows=rows, length=0, room=room)


def _rows(rows: torch.Tensor) -> Read:
    def read(part: torch.Tensor, buffer: torch.Tensor) -> None:
        buffer[:, :, : part.shape[-2]] = part[rows]

    return read
