"""Which rows are held out for evaluation: a rule with a name, alike in every run and on every machine."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray


def held_out(numbers: "NDArray[np.int64]", share: float) -> "NDArray[np.bool_]":
    """The rule `splitmix64`: a number is held out if its hash lies in the lowest `share` of all hashes.

    The hash is the output of SplitMix64 (Steele, Lea and Flood 2014) at this state. A larger share holds out all
    that a smaller one does, 0 nothing and 1 everything; rows added to the data change nothing for the others.
    """
    with np.errstate(over="ignore"):
        state = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    held: NDArray[np.bool_] = (state >> np.uint64(11)) * 2.0**-53 < share
    return held


def held_out_names(names: Iterable[str], share: float) -> "NDArray[np.bool_]":
    """The same rule for what has a name and no number."""
    return held_out(np.array([int(digest((name,), size=7), 16) for name in names], dtype=np.int64), share)
