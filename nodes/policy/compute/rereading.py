"""Rows that sampling reads again from their start: without a cache, or when they grow past a border."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.nodes.policy.compute.reading import Reading


class Rereading:
    """The tokens so far of rows of one prompt length, and the question whether they must be read again.

    `ids` is int64 [rows, tokens].
    """

    def __init__(self, prompts: Sequence[NDArray[np.int32]], reading: Reading, device: torch.device) -> None:
        self.ids = torch.from_numpy(np.stack(prompts).astype(np.int64)).to(device)
        self._reading = reading

    @classmethod
    def needed(
        cls, prompts: Sequence[NDArray[np.int32]], reading: Reading, steps: int, device: torch.device
    ) -> "Rereading | None":
        """Return the rows if this model or their length needs it, else None."""
        crosses = any(reading.may_cross(len(prompt), steps) for prompt in prompts)
        return cls(prompts, reading, device) if crosses or not reading.caches else None

    def add(self, token: torch.Tensor) -> bool:
        """Append one token to each row; return whether a cache of the tokens before it is of no use."""
        before, key = self.ids.shape[1], self._reading.lengths.key
        self.ids = torch.cat([self.ids, token[:, None]], dim=1)
        return not self._reading.caches or key(before) != key(before + 1)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self.ids = self.ids[rows]
