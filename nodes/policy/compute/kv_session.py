"""Keys and values that a policy keeps of chats between their turns, so that each turn reads only what is new."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from genrl_graph.nodes.policy.compute.kv_cache import PreallocatedLayer


@dataclass(frozen=True, slots=True)
class Past:
    """The first `length` tokens of a chat that have been read: keys and values [heads, length, size] of each layer."""

    length: int
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def bytes(self) -> int:
        """The memory of the tensors."""
        return sum(part.nbytes for layer in self.layers for part in layer)


class KvSession:
    """The pasts of chats by their token ids, at most `max_bytes` of them; those that were used longest ago go first.

    It holds for one version of the weights: its owner makes a new one for each round of turns.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._pasts: dict[tuple[int, bytes], Past] = {}  # by length and ids, in the order of their last use
        self.read = self.reused = 0

    @property
    def tokens(self) -> int:
        """The tokens whose keys and values are kept."""
        return sum(past.length for past in self._pasts.values())

    def pasts(self, prompts: Sequence[NDArray[np.int32]]) -> list[Past | None]:
        """Return the longest known past of each prompt, None where nothing of it has been read."""
        lengths = sorted({length for length, _ in self._pasts}, reverse=True)
        found = [self._longest(prompt, lengths) for prompt in prompts]
        self.read += sum(map(len, prompts))
        self.reused += sum(past.length for past in found if past is not None)
        return found

    def _longest(self, prompt: NDArray[np.int32], lengths: Sequence[int]) -> Past | None:
        ids = prompt.astype(np.int32).tobytes()
        for length in lengths:
            if length < len(prompt) and (length, ids[: 4 * length]) in self._pasts:
                key = (length, ids[: 4 * length])
                past = self._pasts[key] = self._pasts.pop(key)
                return past
        return None

    def keep(self, ids: NDArray[np.int32], past: Past, *, grown_from: int) -> None:
        """Keep the past of a chat, in place of that of its first `grown_from` tokens."""
        content = ids.astype(np.int32).tobytes()
        self._drop((grown_from, content[: 4 * grown_from]))
        self._drop((past.length, content))
        self._pasts[past.length, content] = past
        self._bytes += past.bytes
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._pasts)))

    def _drop(self, key: tuple[int, bytes]) -> None:
        past = self._pasts.pop(key, None)
        self._bytes -= past.bytes if past is not None else 0


def can_keep(cache: DynamicCache) -> bool:
    """Return whether all layers of a cache hold the keys and values of every token."""
    return all(type(layer) in (DynamicLayer, PreallocatedLayer) for layer in cache.layers)


def past_of(cache: DynamicCache, row: int, places: torch.Tensor) -> Past:
    """Return a copy of the keys and values of one row of a cache at these places."""
    layers: Sequence[Any] = cache.layers
    keys = [layer.keys[row].index_select(1, places) for layer in layers]
    values = [layer.values[row].index_select(1, places) for layer in layers]
    return Past(len(places), tuple(zip(keys, values, strict=True)))


def fill(cache: DynamicCache, pasts: Sequence[Past | None], width: int) -> None:
    """Put pasts into an empty cache, one a row, padded with 0 on the left to `width` tokens."""
    known = next(past for past in pasts if past is not None)
    for index, (key, value) in enumerate(known.layers):
        buffers = [part.new_zeros((len(pasts), part.shape[0], width, part.shape[2])) for part in (key, value)]
        for row, past in enumerate(pasts):
            for buffer, part in zip(buffers, past.layers[index] if past is not None else (), strict=False):
                buffer[row, :, width - part.shape[1] :] = part
        cache.update(*buffers, index)
