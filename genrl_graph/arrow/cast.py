"""Column types, and the way of values into Arrow: what fits, what is cast, and what is refused."""

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
TEXTS = pa.list_(pa.string())
CHAT = pa.list_(pa.struct([pa.field("role", TEXT, nullable=False), pa.field("content", TEXT, nullable=False)]))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A column of tensors of one dtype whose shape is the same in all rows of a frame, whatever it is."""

    dtype: pa.DataType
    ndim: int | None = None

    def fits(self, actual: pa.DataType) -> bool:
        """Whether a column of type `actual` is one of these."""
        if not isinstance(actual, pa.FixedShapeTensorType):
            return False
        same = bool(actual.value_type == self.dtype)
        return same and (self.ndim is None or len(actual.shape) == self.ndim)


Column: TypeAlias = pa.DataType | Tensor


def count_nulls(array: pa.Array) -> int:
    """How many values are null, at any depth."""
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


def _alike(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast keeps the meaning: numbers are no text, although Arrow would print and parse them."""
    if pa.types.is_null(given):
        return True
    if pa.types.is_dictionary(given):
        return _alike(given.value_type, wanted)
    if _family(given) != _family(wanted):
        return False
    return _family(given) != "list" or _alike(given.value_type, wanted.value_type)


def fits(column: Column, actual: pa.DataType) -> bool:
    """Whether values of this type may stand in the column as they are."""
    return column.fits(actual) if isinstance(column, Tensor) else bool(column == actual)


def cast_column(frame: str, name: str, array: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """The values in the type of the column; raises `ColumnError` where they would lose their meaning or value."""
    if isinstance(column, Tensor):
        shape = f" with {column.ndim} dimensions" if column.ndim is not None else ""
        raise ColumnError(f"{frame}.{name}: {array.type} is no tensor column of {column.dtype}{shape}")
    if not _alike(array.type, column):
        example = f" such as {array[0].as_py()!r:.40}" if len(array) else ""
        raise ColumnError(f"{frame}.{name}: wants {column}, not {array.type}{example}")
    try:
        return array.cast(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ColumnError(f"{frame}.{name}: {first_line(error)} (wants {column})") from error


def to_arrow(where: str, value: Any, column: Column | None) -> pa.Array | pa.ChunkedArray:
    """The Arrow form of one column's values; raises `ColumnError` where they are no such column."""
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value
    try:
        if isinstance(column, Tensor):
            return _tensors(value, column)
        if _are_arrays(value) and column in (IDS, FLOATS):
            assert isinstance(column, pa.ListType)
            ends = np.cumsum([0] + [len(part) for part in value], dtype=np.int32)
            return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(value), column.value_type))
        return pa.array(value, None if _holds_integers(column) else column)  # Arrow would cut 1.5 to 1 unasked
    except (ValueError, TypeError, OverflowError, pa.ArrowNotImplementedError) as error:  # Arrow's are among them
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
