"""Select the rows held out for evaluation by a fixed hash, the same in every run and on every machine."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray


def held_out(numbers: "NDArray[np.int64]", share: float) -> "NDArray[np.bool_]":
    """Return, per number, True if its hash lies in the lowest `share` of all hashes (the rule `splitmix64`).

    The hash is the output of SplitMix64 (Steele, Lea and Flood 2014) with the number as its state. A larger share
    holds out a superset of a smaller one; 0 holds out nothing, 1 everything. Rows added to the data do not change the
    decision for the others.
    """
    with np.errstate(over="ignore"):
        state = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    held: NDArray[np.bool_] = (state >> np.uint64(11)) * 2.0**-53 < share
    return held


def held_out_names(names: Iterable[str], share: float) -> "NDArray[np.bool_]":
    """Return, per name, True if it is held out: `held_out` of a digest of the name."""
    return held_out(np.array([int(digest((name,), size=7), 16) for name in names], dtype=np.int64), share)
