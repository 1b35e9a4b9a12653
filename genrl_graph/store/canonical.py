"""The canonical form of tables in the store: known columns and types, no null, equal bytes for equal rows."""

from collections.abc import Callable
from enum import IntEnum

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.flat import empty
from genrl_graph.arrow.schema import leaves, schema_from_json, schema_json
from genrl_graph.errors import StoreError
from genrl_graph.store.group_names import check_columns


def conform(table: pa.Table, known: pa.Schema | None, *, fixed: bool, where: str) -> pa.Table:
    """Return the table with the columns in the order and types of `known`, without metadata, in one chunk per column.

    Equal rows give equal bytes as an Arrow stream, however the table was built. `fixed` says that the group has rows,
    so `known` holds: an empty table adopts it, and any other type is refused. As long as the group has no rows, the
    types of the table win.
    Raises `StoreError` naming the column that holds null, is new, missing or of another type, or cannot be stored.
    """
    table = table.replace_schema_metadata(None)
    if known is not None:
        table = _ordered(table, known.names, where)
    if known is not None and fixed:
        schema = known
        table = _typed(table, known, where)
    else:
        schema = _storable_schema(table, where)
    columns = _compacted(table, where)
    if table.num_rows == 0:
        return empty(schema)
    if table.schema != schema:
        columns = _compacted(table.cast(schema), where)
    return pa.Table.from_arrays(columns, schema=schema)


def _storable_schema(table: pa.Table, where: str) -> pa.Schema:
    names = table.column_names
    for name in names:
        if names.count(name) > 1:
            raise StoreError(f"{where}.{name}: {names.count(name)} columns have this name; rename one of them")
    check_columns(table.schema, where)
    try:
        schema = schema_from_json(schema_json(table.schema))
    except StoreError as error:
        raise StoreError(f"{where}.{error}") from error
    for leaf in leaves(schema):
        if table.num_rows and 0 in leaf.shape:
            raise StoreError(f"{where}.{leaf.path}: tensors of shape {list(leaf.shape)} hold nothing; leave them out")
    return schema


def _ordered(table: pa.Table, names: list[str], where: str) -> pa.Table:
    columns = table.column_names
    if columns == names:
        return table
    for name in columns:
        if name not in names:
            raise StoreError(f"{where}.{name}: new column; earlier rows have {', '.join(names)}")
        if columns.count(name) > 1:
            raise StoreError(f"{where}.{name}: {columns.count(name)} columns have this name; rename one of them")
    for name in names:
        if name not in columns:
            raise StoreError(f"{where}.{name}: column is missing; earlier rows have it")
    return table.select(names)


def _typed(table: pa.Table, known: pa.Schema, where: str) -> pa.Table:
    if table.num_rows == 0:
        return empty(known)
    if table.schema == known:
        return table
    for field in known:
        dtype = table.schema.field(field.name).type
        if dtype != field.type and _without_nullability(dtype) != _without_nullability(field.type):
            raise StoreError(f"{where}.{field.name}: type {dtype}; earlier rows have {field.type}")
    return table


def _without_nullability(dtype: pa.DataType) -> str:
    """Return a type as text without `not null`: no stored value is null, so the mark makes no difference."""
    return str(dtype).replace(" not null", "")


class _Storage(IntEnum):
    """Contents of the buffers of an array; a nested array is as good as its worst part (`min`)."""

    NULL = 0  # some value is null, at any depth
    SLICED = 1  # the buffers hold more than the values of the array, as after a slice
    COMPACT = 2  # the buffers hold the values and nothing else


def _compacted(table: pa.Table, where: str) -> list[pa.Array]:
    """Return each column as one compact array; only a column that is not compact is copied.

    An Arrow stream writes buffers in rounded sizes, so the bytes after a slice would change the bytes of the stream.
    Raises `StoreError` for a null.
    """
    arrays = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        chunks = column.chunks
        state = min(map(_storage_of, chunks), default=_Storage.SLICED)
        if state is _Storage.NULL:
            raise StoreError(f"{where}.{name}: holds null; give every row a value (NaN and '' are values)")
        if state is _Storage.COMPACT and len(chunks) == 1:
            arrays.append(chunks[0])
        else:
            arrays.append(column.take(pa.array(np.arange(len(column)))).combine_chunks())
    return arrays


def _storage_of(array: pa.Array) -> _Storage:
    if array.null_count:
        return _Storage.NULL
    return _STORAGE_BY_TYPE.get(type(array), _number_storage)(array)


def _number_storage(array: pa.Array) -> _Storage:
    data = array.buffers()[1]
    exact = data is not None and not array.offset and data.size * 8 == len(array) * array.type.bit_width
    return _Storage.COMPACT if exact else _Storage.SLICED


def _boolean_storage(array: pa.Array) -> _Storage:
    return _Storage.SLICED  # a buffer of bits ends with a whole byte, so there may be bits after the last value


def _null_storage(array: pa.Array) -> _Storage:
    return _Storage.COMPACT  # no value, no buffer


def _text_storage(array: pa.Array) -> _Storage:
    _, offsets, data = array.buffers()
    exact = not array.offset and _covers(offsets, len(array), 0 if data is None else data.size)
    return _Storage.COMPACT if exact else _Storage.SLICED


def _list_storage(array: pa.Array) -> _Storage:
    if not array.offset and _covers(array.buffers()[1], len(array), len(array.values)):
        return _storage_of(array.values)
    return min(_Storage.SLICED, _storage_of(array.flatten()))


def _tensor_storage(array: pa.Array) -> _Storage:
    flat = array.storage.values
    if not array.offset and len(flat) == len(array) * array.type.storage_type.list_size:
        return _storage_of(flat)
    return min(_Storage.SLICED, _storage_of(array.storage.flatten()))


def _struct_storage(array: pa.Array) -> _Storage:
    fields = [array.field(at) for at in range(array.type.num_fields)]
    if not array.offset and all(len(field) == len(array) for field in fields):
        return min(map(_storage_of, fields))
    return min(_Storage.SLICED, *map(_storage_of, array.flatten()))


def _covers(offsets: pa.Buffer | None, count: int, end: int) -> bool:
    """Return whether the offsets of `count` values begin at 0 and end at `end`, the length of what they point into."""
    if offsets is None or offsets.size != 4 * (count + 1):
        return False
    bounds = memoryview(offsets).cast("i")
    return bounds[0] == 0 and bounds[-1] == end


_STORAGE_BY_TYPE: dict[type, Callable[[pa.Array], _Storage]] = {
    pa.BooleanArray: _boolean_storage,
    pa.NullArray: _null_storage,
    pa.StringArray: _text_storage,
    pa.ListArray: _list_storage,
    pa.StructArray: _struct_storage,
    pa.FixedShapeTensorArray: _tensor_storage,
}
