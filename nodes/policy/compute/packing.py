"""Sequences laid out in one row without padding: what several have in common from their beginning on is there once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Places = NDArray[np.int64]

LEAST_SHARED = 16
"""Tokens in common that are worth a branch."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The places from `start` to `stop`: each sees the runs of places `before` all of them, and itself and those of
    the branch before it."""

    start: int
    stop: int
    before: tuple[tuple[int, int], ...]

    @property
    def seen(self) -> int:
        """How many places lie before it."""
        return sum(stop - start for start, stop in self.before)


@dataclass(frozen=True, slots=True)
class Packed:
    """`ids` and `positions` are int64 [tokens]; sequence i is what stands at `paths[i]`; branches cover all tokens."""

    ids: Places
    positions: Places
    paths: tuple[Places, ...]
    branches: tuple[Branch, ...]

    @classmethod
    def of(cls, sequences: Sequence[Ids]) -> "Packed":
        """Lay sequences out, none of them empty."""
        paths, branches = [np.zeros(0, np.int64)] * len(sequences), list[Branch]()
        ids, positions, size = list[Ids](), list[Places](), 0
        path = np.zeros(0, np.int64)
        for row, known in in_order(sequences):
            sequence = sequences[row]
            stop = size + len(sequence) - known
            path = np.concatenate([path[:known], np.arange(size, stop)])
            if stop > size:
                branches.append(Branch(size, stop, _runs(path[:known])))
            ids.append(sequence[known:])
            positions.append(np.arange(known, len(sequence)))
            paths[row], size = path, stop
        nothing = [np.zeros(0, np.int64)]
        return cls(
            np.concatenate([*nothing, *ids]), np.concatenate([*nothing, *positions]), tuple(paths), tuple(branches)
        )


def in_order(sequences: Sequence[Ids]) -> Iterator[tuple[int, int]]:
    """Sequences in the order of their ids, each with how many tokens it shares with the one before.

    Of all that come earlier, that is the one with which a sequence has most in common.
    """
    before = np.zeros(0, np.int32)
    for row in sorted(range(len(sequences)), key=lambda row: sequences[row].astype(">i4").tobytes()):
        known = common(before, sequences[row])
        yield row, known if known >= LEAST_SHARED else 0
        before = sequences[row]


def packed_batches(sequences: Sequence[Ids], *, max_tokens: int) -> list[Places]:
    """Positions of sequences in batches of at most `max_tokens` once they are packed; a longer one is alone.

    Sequences that have much in common stay together: of all ways to cut them in their order, this has the fewest
    tokens in all, and of those the fewest batches.
    """
    order = list(in_order(sequences))
    least, first = [(0, 0)], [0]  # by how many sequences: tokens and batches, and where the last batch begins
    for end in range(1, len(order) + 1):
        options = []
        tokens = 0  # of the batch, but for what its first sequence shares with the one before
        for begin in range(end - 1, -1, -1):
            row, known = order[begin]
            whole = tokens + len(sequences[row])
            if whole > max_tokens and begin < end - 1:
                break
            options.append((least[begin][0] + whole, least[begin][1] + 1, begin))
            tokens = whole - known
        fewest = min(options)
        least.append(fewest[:2])
        first.append(fewest[2])
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(first[cuts[-1]])
    rows = np.asarray([row for row, _ in order], np.int64)
    return [rows[begin:end] for begin, end in pairwise(reversed(cuts))]


def packed_tokens(sequences: Sequence[Ids]) -> int:
    """How many tokens sequences have once they are packed."""
    return sum(len(sequences[row]) - known for row, known in in_order(sequences))


def common(a: Ids, b: Ids) -> int:
    """How many tokens two sequences have in common at their beginning."""
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differ[0]) if len(differ) else shorter


def _runs(places: Places) -> tuple[tuple[int, int], ...]:
    """Ascending places as runs from start to stop."""
    if not len(places):
        return ()
    ends = np.flatnonzero(np.diff(places) != 1)
    starts = places[np.concatenate([[0], ends + 1])]
    stops = places[np.concatenate([ends, [len(places) - 1]])] + 1
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))
