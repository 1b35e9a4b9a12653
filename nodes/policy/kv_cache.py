"""The key-value cache of a batch that grows: room for all tokens to come, so that a token is written, not appended."""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer of one kind of attention over all tokens, made of rows of a layer that has read the prompts.

    Keys take the type of the values, which is what attention computes in: under autocast half of the memory.
    """

    def __init__(self, layer: DynamicLayer, rows: torch.Tensor, room: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.length = int(layer.keys.shape[-2])
        self.buffers = [self._with_room(part[rows], room, layer.values.dtype) for part in (layer.keys, layer.values)]
        self._show()

    @staticmethod
    def _with_room(part: torch.Tensor, room: int, dtype: torch.dtype) -> torch.Tensor:
        rows, heads, length, size = part.shape
        buffer = torch.empty((rows, heads, length + room, size), dtype=dtype, device=part.device)
        buffer[:, :, :length] = part
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
        room = self.buffers[0].shape[-2] - self.length
        shown = (self.keys, self.values)
        self.buffers = [self._with_room(part[indices], room, part.dtype) for part in shown]
        self._show()


def spread(cache: DynamicCache, rows: torch.Tensor, room: int) -> None:
    """Make row i of the cache a copy of its row rows[i], with room for `room` more tokens."""
    for at, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.get_seq_length() > 0:
            cache.layers[at] = RoomyLayer(layer, rows, room)
        else:  # windows and states of other kinds keep their own layers
            layer.batch_select_indices(rows)
