"""Rows in batches that a budget of tokens allows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def micro_batches(lengths: Sequence[int], *, max_batch_tokens: int) -> "list[NDArray[np.int64]]":
    """Positions of rows in batches of at most `max_batch_tokens` tokens, padding included, shortest rows first.

    A batch of rows counts rows x longest row. A row longer than the budget is a batch of its own.
    """
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[list[int]] = []
    for at in order.tolist():
        if batches and (len(batches[-1]) + 1) * lengths[at] <= max_batch_tokens:
            batches[-1].append(at)
        else:
            batches.append([at])
    return [np.asarray(batch, dtype=np.int64) for batch in batches]
