"""Split Arrow columns into flat NumPy arrays and join them again.

Allowed types are booleans, numbers, strings, `list<T>`, `struct<...>` and `fixed_shape_tensor`, nested to any depth.
No value is null. A column `x` of n rows becomes these flat arrays:

    number, boolean, string   x                       shape (n,)
    fixed_shape_tensor        x                       shape (n, *tensor shape)
    struct                    x/<field>               each of n
    list                      x/offsets, x/values     shapes (n + 1,) int64 and (offsets[n],)

Row i of a list is `values[offsets[i]:offsets[i + 1]]`; an appended row adds one offset.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrl_graph.arrow.schema import leaves
from genrl_graph.errors import StoreError

Flat = NDArray[Any]
Read = Callable[[str, int, int], Flat]


def split(table: pa.Table) -> dict[str, Flat]:
    """Return the flat arrays of a table without nulls, by path.

    Offsets are only the n ends of the rows, relative to the start of the table; the leading 0 is left out.
    """
    parts: dict[str, Flat] = {}
    for name in table.column_names:
        _split(table.column(name).combine_chunks(), name, parts)
    return parts


def has_text_beyond(column: pa.ChunkedArray | pa.Array, size: int) -> bool:
    """Return whether a column without nulls, or a column inside it, has a text of more than `size` bytes."""
    if isinstance(column, pa.ChunkedArray):
        return any(has_text_beyond(chunk, size) for chunk in column.chunks)
    if pa.types.is_struct(column.type):
        return any(has_text_beyond(inner, size) for inner in column.flatten())
    if pa.types.is_list(column.type):
        return has_text_beyond(column.flatten(), size)
    return pa.types.is_string(column.type) and (pc.max(pc.binary_length(column)).as_py() or 0) > size


def join(schema: pa.Schema, read: Read, start: int, stop: int) -> pa.Table:
    """Build the rows from `start` to `stop` from flat arrays.

    `read(path, start, stop)` returns a slice of a flat array. Raises `StoreError` if the rows hold more list elements
    or text than one Arrow array can.
    """
    columns = []
    for field in schema:
        try:
            column = _join(field.type, field.name, read, start, stop)
        except (pa.ArrowInvalid, pa.ArrowCapacityError) as error:
            raise StoreError(f"column {field.name!r}: rows {start} to {stop} are too large: {error}") from error
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def empty(schema: pa.Schema) -> pa.Table:
    """Return a table without rows, even for schemas for which Arrow cannot build one (lists of tensors)."""
    dtypes = {leaf.path: (object if leaf.dtype == "string" else leaf.dtype) for leaf in leaves(schema)}
    return join(schema, lambda path, start, stop: np.zeros(stop - start, dtypes[path]), 0, 0)


def _split(array: pa.Array, path: str, parts: dict[str, Flat]) -> None:
    if isinstance(array.type, pa.FixedShapeTensorType):
        flat = array.storage.flatten().to_numpy(zero_copy_only=False)
        parts[path] = flat.reshape(len(array), *array.type.shape)
    elif pa.types.is_list(array.type):
        bounds = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        parts[f"{path}/offsets"] = bounds[1:] - bounds[0]
        _split(array.flatten(), f"{path}/values", parts)
    elif pa.types.is_struct(array.type):
        for field, child in zip(array.type, array.flatten(), strict=True):
            _split(child, f"{path}/{field.name}", parts)
    elif not pa.types.is_null(array.type):
        parts[path] = array.to_numpy(zero_copy_only=False)


def _join(dtype: pa.DataType, path: str, read: Read, start: int, stop: int) -> pa.Array:
    if isinstance(dtype, pa.FixedShapeTensorType):
        flat = pa.array(read(path, start, stop).reshape(-1), dtype.value_type)
        if start == stop:
            return pa.array([], dtype)
        width = int(np.prod(dtype.shape))
        return pa.ExtensionArray.from_storage(dtype, pa.FixedSizeListArray.from_arrays(flat, width))
    if pa.types.is_list(dtype):
        bounds = read(f"{path}/offsets", start, stop + 1)
        values = _join(dtype.value_type, f"{path}/values", read, int(bounds[0]), int(bounds[-1]))
        return pa.ListArray.from_arrays(pa.array(bounds - bounds[0], pa.int32()), values, type=dtype)
    if pa.types.is_struct(dtype):
        children = [_join(field.type, f"{path}/{field.name}", read, start, stop) for field in dtype]
        return pa.StructArray.from_arrays(children, fields=list(dtype))
    if pa.types.is_null(dtype):
        return pa.nulls(stop - start)
    if pa.types.is_string(dtype):
        return _text(read(path, start, stop), path)
    return pa.array(read(path, start, stop), dtype)


def _text(values: Flat, path: str) -> pa.Array:
    array = pa.array(values.astype(object), pa.string())
    if isinstance(array, pa.ChunkedArray):
        raise StoreError(f"column {path!r}: more than 2 GiB of text in {len(values)} rows; read fewer rounds at a time")
    return array
