"""Split rows into optimiser steps without splitting groups."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def split_groups(groups: Sequence[str], *, parts: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return row positions in at most `parts` parts of whole groups, the groups shuffled; one part keeps the order."""
    names = list(dict.fromkeys(groups))
    if parts == 1 or len(names) == 1:
        return [np.arange(len(groups))]
    shuffled = rng.permutation(len(names))
    part_of = {names[at]: number for number, chunk in enumerate(np.array_split(shuffled, parts)) for at in chunk}
    owners = np.asarray([part_of[group] for group in groups])
    return [positions for number in range(parts) if len(positions := np.flatnonzero(owners == number))]
