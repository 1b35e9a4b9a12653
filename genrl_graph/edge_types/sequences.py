"""Rows that follow each other in a trajectory: number the trajectories of a frame, and find those with gaps."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from genrl_graph.edge_types.frame import Frame

MOST_SEATS = 64
LARGEST_VALUE = 1e6  # bound on rewards and values from other peers: an overflow would break every peer that trains
ENDINGS = ("", "terminated", "truncated", "failed")


def combined_codes(rows: "Frame", *columns: str) -> "NDArray[np.int64]":
    """Return for each row the number of its combination of values in these columns, from 0, shape (rows,).

    Numbers count by size, texts by first appearance.
    """
    codes: NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
    for name in columns:
        column = rows.table.column(name).combine_chunks()
        if pa.types.is_integer(column.type):
            values = np.unique(column.to_numpy(zero_copy_only=False), return_inverse=True)[1]
        else:
            values = column.dictionary_encode().indices.to_numpy(zero_copy_only=False)
        codes = codes * (int(values.max(initial=0)) + 1) + values
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    return codes


def in_order(codes: "NDArray[np.int64]", places: "NDArray[Any]") -> "list[NDArray[np.int64]]":
    """Return the row numbers of each trajectory in the order of `places`, trajectories by their code."""
    order = np.lexsort((places, codes))
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []


def incomplete(
    codes: "NDArray[np.int64]", places: "NDArray[np.int64]", ended: "NDArray[np.bool_]"
) -> "NDArray[np.bool_]":
    """Return a mask of the rows whose trajectory is not places 0, 1, ... of which the last alone has ended.

    `codes` number the trajectories from 0, `places` the rows in them.
    """
    order = np.lexsort((places, codes))
    sizes = np.bincount(codes)
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    last = within == np.repeat(sizes, sizes) - 1
    wrong = (places[order] != within) | (last != ended[order])
    broken: NDArray[np.bool_] = (np.bincount(codes[order], weights=wrong, minlength=len(sizes)) > 0)[codes]
    return broken


def whole_or_none(codes: "NDArray[np.int64]", bad: "NDArray[np.bool_]") -> "NDArray[np.bool_]":
    """Return a mask of the rows of trajectories with a bad row."""
    mask: NDArray[np.bool_] = (np.bincount(codes, weights=bad) > 0)[codes]
    return mask
