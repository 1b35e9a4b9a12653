"""What each row of a column holds, summed over all that is nested in it."""

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Counts = NDArray[np.int64]
OFFSET_BYTES = 4


def per_row(
    column: pa.Array | pa.ChunkedArray, leaf: Callable[[pa.Array], Counts], *, a_list: int = 0, an_element: int = 0
) -> Counts:
    """For each row the sum of `leaf` over its flat values, with so much for each list and list element in it."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array.type, pa.FixedShapeTensorType):
        flat = leaf(array.storage.flatten())
        width = math.prod(array.type.shape)
        if _is_uniform(flat):
            return _all(int(flat[0]) * width, array)
        total: Counts = flat.reshape(len(array), width).sum(axis=1, dtype=np.int64)
        return total
    if pa.types.is_struct(array.type):
        fields = (per_row(field, leaf, a_list=a_list, an_element=an_element) for field in array.flatten())
        both: Counts = np.sum(list(fields), axis=0, dtype=np.int64)
        return both
    if not pa.types.is_list(array.type):
        return leaf(array)
    lengths: Counts = pc.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
    inner = per_row(array.flatten(), leaf, a_list=a_list, an_element=an_element)
    if _is_uniform(inner):
        lengths *= an_element + inner[0]
        lengths += a_list
        return lengths
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(inner)])
    ends = np.cumsum(lengths)
    sums: Counts = before[ends] - before[ends - lengths] + a_list + an_element * lengths
    return sums


def row_bytes(table: pa.Table) -> Counts:
    """The bytes of each row as flat arrays, with four for the length of each list and text."""
    sizes = [per_row(column, _leaf_bytes, a_list=OFFSET_BYTES) for column in table.columns]
    return np.sum(sizes, axis=0, dtype=np.int64) if sizes else np.zeros(table.num_rows, np.int64)


def most_elements(table: pa.Table) -> Counts:
    """For each row the most list elements, at all levels together, that one of its columns holds."""
    most = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        if _holds(column.type, pa.types.is_list):
            np.maximum(most, per_row(column, _nothing, an_element=1), out=most)
    return most


def non_finite(column: pa.ChunkedArray) -> Counts:
    """For each row how many of its numbers are NaN or infinite."""
    if not _holds(column.type, pa.types.is_floating):
        return np.zeros(len(column), np.int64)
    return per_row(column, _leaf_non_finite)


def _holds(dtype: pa.DataType, wanted: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type, or one nested in it, is wanted."""
    if isinstance(dtype, pa.FixedShapeTensorType) or pa.types.is_list(dtype):
        return wanted(dtype) or _holds(dtype.value_type, wanted)
    if pa.types.is_struct(dtype):
        return any(_holds(field.type, wanted) for field in dtype)
    return wanted(dtype)


def _leaf_bytes(array: pa.Array) -> Counts:
    if pa.types.is_string(array.type):
        lengths: Counts = pc.binary_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
        return lengths + OFFSET_BYTES
    if pa.types.is_null(array.type):
        return _nothing(array)
    return _all(max(1, array.type.bit_width // 8), array)


def _leaf_non_finite(array: pa.Array) -> Counts:
    if not pa.types.is_floating(array.type):
        return _nothing(array)
    counts: Counts = (~np.isfinite(array.to_numpy(zero_copy_only=False))).astype(np.int64)
    return counts


def _nothing(array: pa.Array) -> Counts:
    return _all(0, array)


def _is_uniform(counts: Counts) -> bool:
    """Whether all are one number, made by `_all`: sums over them need not look at each."""
    return len(counts) > 0 and counts.strides == (0,)


def _all(value: int, array: pa.Array) -> Counts:
    """The same number for each value, in the memory of one."""
    return np.broadcast_to(np.int64(value), len(array))
