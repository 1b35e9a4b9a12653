"""Pack sequences into one row without padding, where prefixes that several sequences share are stored once.

A place is the index of a token in the packed row; its position is the index in its sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Places = NDArray[np.int64]

LEAST_SHARED = 16
"""Least number of common tokens for which a prefix is shared; shorter ones are not worth a branch."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The places from `start` to `stop`, tokens that continue one prefix.

    Each place attends to the runs of places in `before` (the prefix), to earlier places of the branch and to itself.
    """

    start: int
    stop: int
    before: tuple[tuple[int, int], ...]

    @property
    def seen(self) -> int:
        """Number of places of the prefix."""
        return sum(stop - start for start, stop in self.before)


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed row: `ids` and `positions` are int64 [tokens], `paths[i]` holds the places of sequence i in order.

    The branches, in order, cover all places.
    """

    ids: Places
    positions: Places
    paths: tuple[Places, ...]
    branches: tuple[Branch, ...]

    @classmethod
    def of(cls, sequences: Sequence[Ids]) -> "Packed":
        """Pack non-empty sequences."""
        paths, branches = [np.zeros(0, np.int64)] * len(sequences), list[Branch]()
        ids, positions, size = list[Ids](), list[Places](), 0
        path = np.zeros(0, np.int64)
        for row, shared in prefix_order(sequences):
            sequence = sequences[row]
            stop = size + len(sequence) - shared
            path = np.concatenate([path[:shared], np.arange(size, stop)])
            if stop > size:
                branches.append(Branch(size, stop, _runs(path[:shared])))
            ids.append(sequence[shared:])
            positions.append(np.arange(shared, len(sequence)))
            paths[row], size = path, stop
        empty = [np.zeros(0, np.int64)]
        return cls(np.concatenate([*empty, *ids]), np.concatenate([*empty, *positions]), tuple(paths), tuple(branches))


def prefix_order(sequences: Sequence[Ids]) -> Iterator[tuple[int, int]]:
    """Yield the indices of sequences sorted by ids, each with the length of the prefix shared with the previous one.

    In this order, no other earlier sequence shares a longer prefix. Prefixes below `LEAST_SHARED` count as 0.
    """
    previous = np.zeros(0, np.int32)
    for row in sorted(range(len(sequences)), key=lambda row: sequences[row].astype(">i4").tobytes()):
        shared = common_prefix(previous, sequences[row])
        yield row, shared if shared >= LEAST_SHARED else 0
        previous = sequences[row]


def packed_batches(sequences: Sequence[Ids], *, max_tokens: int) -> list[Places]:
    """Return batches of sequence indices, each of at most `max_tokens` once packed; a longer sequence is alone.

    Keeps sequences with common prefixes together: among all ways to cut the sequences in `prefix_order`, this has the
    fewest tokens in total, and of those the fewest batches.
    """
    order = list(prefix_order(sequences))
    # best[n]: least (tokens, batches) for the first n sequences; first[n]: where the last of these batches begins
    best, first = [(0, 0)], [0]
    for end in range(1, len(order) + 1):
        options = []
        tokens = 0  # of order[begin + 1 : end], without the prefix shared with order[begin]
        for begin in range(end - 1, -1, -1):
            row, shared = order[begin]
            batch = tokens + len(sequences[row])
            if batch > max_tokens and begin < end - 1:
                break
            options.append((best[begin][0] + batch, best[begin][1] + 1, begin))
            tokens = batch - shared
        fewest = min(options)
        best.append(fewest[:2])
        first.append(fewest[2])
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(first[cuts[-1]])
    rows = np.asarray([row for row, _ in order], np.int64)
    return [rows[begin:end] for begin, end in pairwise(reversed(cuts))]


def packed_tokens(sequences: Sequence[Ids]) -> int:
    """Return the number of tokens of the packed sequences."""
    return sum(len(sequences[row]) - shared for row, shared in prefix_order(sequences))


def common_prefix(a: Ids, b: Ids) -> int:
    """Return the length of the longest common prefix of two sequences."""
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differ[0]) if len(differ) else shorter


def _runs(places: Places) -> tuple[tuple[int, int], ...]:
    """Return ascending places as runs (start, stop)."""
    if not len(places):
        return ()
    ends = np.flatnonzero(np.diff(places) != 1)
    starts = places[np.concatenate([[0], ends + 1])]
    stops = places[np.concatenate([ends, [len(places) - 1]])] + 1
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))
