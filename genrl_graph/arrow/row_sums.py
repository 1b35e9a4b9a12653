"""Per-row sums over nested Arrow columns: bytes, list elements, non-finite numbers."""

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Counts = NDArray[np.int64]
OFFSET_BYTES = 4


def per_row(
    column: pa.Array | pa.ChunkedArray, leaf: Callable[[pa.Array], Counts], *, per_list: int = 0, per_element: int = 0
) -> Counts:
    """Return for each row the sum of `leaf` over its flat values, shape (rows,).

    Each list in a row adds `per_list`, and each list element `per_element`, at every nesting level.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array.type, pa.FixedShapeTensorType):
        return _tensor_sums(array, leaf)
    if pa.types.is_struct(array.type):
        fields = (per_row(field, leaf, per_list=per_list, per_element=per_element) for field in array.flatten())
        total: Counts = np.sum(list(fields), axis=0, dtype=np.int64)
        return total
    if not pa.types.is_list(array.type):
        return leaf(array)
    lengths: Counts = pc.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
    inner = per_row(array.flatten(), leaf, per_list=per_list, per_element=per_element)
    if _is_uniform(inner):
        lengths *= per_element + inner[0]
        lengths += per_list
        return lengths
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(inner)])
    ends = np.cumsum(lengths)
    sums: Counts = before[ends] - before[ends - lengths] + per_list + per_element * lengths
    return sums


def _tensor_sums(array: pa.FixedShapeTensorArray, leaf: Callable[[pa.Array], Counts]) -> Counts:
    flat = leaf(array.storage.flatten())
    width = math.prod(array.type.shape)
    if _is_uniform(flat):
        return _uniform(int(flat[0]) * width, array)
    sums: Counts = flat.reshape(len(array), width).sum(axis=1, dtype=np.int64)
    return sums


def row_bytes(table: pa.Table) -> Counts:
    """Return the size of each row in bytes, counting four bytes for the length of each list and text."""
    sizes = [per_row(column, _leaf_bytes, per_list=OFFSET_BYTES) for column in table.columns]
    return np.sum(sizes, axis=0, dtype=np.int64) if sizes else np.zeros(table.num_rows, np.int64)


def most_elements(table: pa.Table) -> Counts:
    """Return for each row the largest number of list elements, over all nesting levels, in one of its columns."""
    most = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        if _contains(column.type, pa.types.is_list):
            np.maximum(most, per_row(column, _zeros, per_element=1), out=most)
    return most


def non_finite(column: pa.ChunkedArray) -> Counts:
    """Return for each row the number of NaN and infinite values."""
    if not _contains(column.type, pa.types.is_floating):
        return np.zeros(len(column), np.int64)
    return per_row(column, _leaf_non_finite)


def _contains(dtype: pa.DataType, predicate: Callable[[pa.DataType], bool]) -> bool:
    """Return whether the predicate holds for a type or for one nested in it."""
    if isinstance(dtype, pa.FixedShapeTensorType) or pa.types.is_list(dtype):
        return predicate(dtype) or _contains(dtype.value_type, predicate)
    if pa.types.is_struct(dtype):
        return any(_contains(field.type, predicate) for field in dtype)
    return predicate(dtype)


def _leaf_bytes(array: pa.Array) -> Counts:
    if pa.types.is_string(array.type):
        lengths: Counts = pc.binary_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
        return lengths + OFFSET_BYTES
    if pa.types.is_null(array.type):
        return _zeros(array)
    return _uniform(max(1, array.type.bit_width // 8), array)


def _leaf_non_finite(array: pa.Array) -> Counts:
    if not pa.types.is_floating(array.type):
        return _zeros(array)
    counts: Counts = (~np.isfinite(array.to_numpy(zero_copy_only=False))).astype(np.int64)
    return counts


def _zeros(array: pa.Array) -> Counts:
    return _uniform(0, array)


def _is_uniform(counts: Counts) -> bool:
    """Return whether `_uniform` made these counts: their sums are products, without a pass over the values."""
    return len(counts) > 0 and counts.strides == (0,)


def _uniform(value: int, array: pa.Array) -> Counts:
    """Return the same number for each value of the array, stored once (stride 0)."""
    return np.broadcast_to(np.int64(value), len(array))
