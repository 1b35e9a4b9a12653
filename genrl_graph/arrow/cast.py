"""Column types, and the conversion of Python and NumPy values to Arrow columns of these types."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from genrl_graph.errors import ColumnError
from genrl_graph.messages import first_line

TEXT = pa.string()
IDS = pa.list_(pa.int32())
FLOATS = pa.list_(pa.float32())
BYTES = pa.list_(pa.uint8())
TEXTS = pa.list_(pa.string())
CHAT = pa.list_(pa.struct([pa.field("role", TEXT, nullable=False), pa.field("content", TEXT, nullable=False)]))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A column of tensors: one declared dtype, and any shape that all rows of a frame share."""

    dtype: pa.DataType
    ndim: int | None = None

    def fits(self, actual: pa.DataType) -> bool:
        """Return whether `actual` is a tensor type of this dtype and number of dimensions."""
        if not isinstance(actual, pa.FixedShapeTensorType):
            return False
        same_dtype = bool(actual.value_type == self.dtype)
        return same_dtype and (self.ndim is None or len(actual.shape) == self.ndim)


Column: TypeAlias = pa.DataType | Tensor


def count_nulls(array: pa.Array) -> int:
    """Return the number of null values at any nesting depth."""
    if isinstance(array.type, pa.FixedShapeTensorType):
        return int(array.null_count) + count_nulls(array.storage)
    inner: Iterable[pa.Array] = ()
    if _family(array.type) == "list":
        inner = [array.flatten()]
    elif _family(array.type) == "struct":
        inner = array.flatten()
    return int(array.null_count) + sum(map(count_nulls, inner))


def _family(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "list"
    return "struct" if types.is_struct(kind) else str(kind)


def _same_family(actual: pa.DataType, wanted: pa.DataType) -> bool:
    """Return whether a cast keeps the meaning: Arrow would also print numbers as text and parse text as numbers."""
    if pa.types.is_null(actual):
        return True
    if pa.types.is_dictionary(actual):
        return _same_family(actual.value_type, wanted)
    if _family(actual) != _family(wanted):
        return False
    return _family(actual) != "list" or _same_family(actual.value_type, wanted.value_type)


def fits(column: Column, actual: pa.DataType) -> bool:
    """Return whether a column accepts values of type `actual` without a cast."""
    return column.fits(actual) if isinstance(column, Tensor) else bool(column == actual)


def cast_column(frame: str, name: str, array: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Cast values to the type of the column; raises `ColumnError` if the cast would change their meaning or value."""
    if isinstance(column, Tensor):
        shape = f" with {column.ndim} dimensions" if column.ndim is not None else ""
        raise ColumnError(f"{frame}.{name}: {array.type} is no tensor column of {column.dtype}{shape}")
    if not _same_family(array.type, column):
        example = f" such as {array[0].as_py()!r:.40}" if len(array) else ""
        raise ColumnError(f"{frame}.{name}: wants {column}, not {array.type}{example}")
    try:
        return array.cast(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ColumnError(f"{frame}.{name}: {first_line(error)} (wants {column})") from error


def to_arrow(where: str, value: Any, column: Column | None) -> pa.Array | pa.ChunkedArray:
    """Convert the values of one column to Arrow; raises `ColumnError` if they do not fit its type.

    Arrow arrays are returned unchanged. Integer columns keep the type that Arrow infers; `cast_column` checks it.
    """
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value
    try:
        if isinstance(column, Tensor):
            return _tensors(value, column)
        if _are_arrays(value) and column in (IDS, FLOATS, BYTES):
            assert isinstance(column, pa.ListType)
            ends = np.cumsum([0] + [len(part) for part in value], dtype=np.int32)
            return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(value), column.value_type))
        return pa.array(value, None if _holds_integers(column) else column)  # Arrow would truncate 1.5 to 1
    except (ValueError, TypeError, OverflowError, pa.ArrowNotImplementedError) as error:  # includes Arrow's errors
        wanted = f" (wants {column})" if isinstance(column, pa.DataType) else ""
        raise ColumnError(f"{where}: {first_line(error)}{wanted}") from error


def _holds_integers(column: pa.DataType | None) -> bool:
    if column is not None and _family(column) == "list":
        return _holds_integers(column.value_type)
    return column is not None and pa.types.is_integer(column)


def _are_arrays(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, np.ndarray) for item in value)


def _tensors(value: Any, column: Tensor) -> pa.Array:
    if not len(value):
        shape = np.shape(value)[1:] or (0,) * (column.ndim or 1)
        return pa.array([], pa.fixed_shape_tensor(column.dtype, shape))
    tensors = np.ascontiguousarray(np.asarray(value, dtype=column.dtype.to_pandas_dtype()))
    if tensors.ndim < 2 or not tensors.size:
        raise ValueError(f"tensors of shape {tensors.shape[1:]}; one of at least one dimension and value is wanted")
    return pa.FixedShapeTensorArray.from_numpy_ndarray(tensors)
