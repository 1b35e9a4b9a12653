"""How rows are split for training: optimiser steps by group, micro-batches by token budget."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def micro_batches(lengths: Sequence[int], *, max_batch_tokens: int) -> list[NDArray[np.int64]]:
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


def split_groups(groups: Sequence[str], *, parts: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Positions of rows in at most `parts` parts of whole groups, shuffled; one part keeps the order."""
    names = list(dict.fromkeys(groups))
    if parts == 1 or len(names) == 1:
        return [np.arange(len(groups))]
    shuffled = rng.permutation(len(names))
    part_of = {names[at]: number for number, chunk in enumerate(np.array_split(shuffled, parts)) for at in chunk}
    owners = np.asarray([part_of[group] for group in groups])
    return [found for number in range(parts) if len(found := np.flatnonzero(owners == number))]
