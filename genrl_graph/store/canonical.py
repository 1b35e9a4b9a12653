"""Tables as the store keeps them: known columns and types, no null, and the same bytes for the same rows."""

from collections.abc import Callable
from enum import IntEnum

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.flat import empty
from genrl_graph.arrow.schema import leaves, schema_from_json, schema_json
from genrl_graph.errors import StoreError


def conform(table: pa.Table, known: pa.Schema | None, *, fixed: bool, where: str) -> pa.Table:
    """The table in the known column order and types, rid of metadata and of chunks.

    Equal rows give equal bytes as an Arrow stream, however they were put together. Without rows a table has no types
    worth a word, so a table of none takes the known types, and where no row is known yet (not `fixed`) the table's
    types win.
    Raises `StoreError` naming the column that is null, unknown, missing, of another type or of one not stored.
    """
    table = table.replace_schema_metadata(None)
    if known is not None:
        table = _ordered(table, known.names, where)
    if known is not None and fixed:
        schema = known
        table = _typed(table, known, where)
    else:
        schema = _storable(table, where)
    columns = _compacted(table, where)
    if table.num_rows == 0:
        return empty(schema)
    if table.schema != schema:
        columns = _compacted(table.cast(schema), where)
    return pa.Table.from_arrays(columns, schema=schema)


def _storable(table: pa.Table, where: str) -> pa.Schema:
    names = table.column_names
    for name in names:
        if names.count(name) > 1:
            raise StoreError(f"{where}.{name}: {names.count(name)} columns have this name; rename one of them")
    try:
        schema = schema_from_json(schema_json(table.schema))
    except StoreError as error:
        raise StoreError(f"{where}.{error}") from error
    for leaf in leaves(schema):
        if table.num_rows and 0 in leaf.shape:
            raise StoreError(f"{where}.{leaf.path}: tensors of shape {list(leaf.shape)} hold nothing; leave them out")
    return schema


def _ordered(table: pa.Table, names: list[str], where: str) -> pa.Table:
    given = table.column_names
    if given == names:
        return table
    for name in given:
        if name not in names:
            raise StoreError(f"{where}.{name}: new column; earlier rows have {', '.join(names)}")
        if given.count(name) > 1:
            raise StoreError(f"{where}.{name}: {given.count(name)} columns have this name; rename one of them")
    for name in names:
        if name not in given:
            raise StoreError(f"{where}.{name}: column is missing; earlier rows have it")
    return table.select(names)


def _typed(table: pa.Table, known: pa.Schema, where: str) -> pa.Table:
    if table.num_rows == 0:
        return empty(known)
    if table.schema == known:
        return table
    for field in known:
        given = table.schema.field(field.name).type
        if given != field.type and _bare(given) != _bare(field.type):
            raise StoreError(f"{where}.{field.name}: type {given}; earlier rows have {field.type}")
    return table


def _bare(dtype: pa.DataType) -> str:
    """A type without its marks of what may be null: nothing stored is."""
    return str(dtype).replace(" not null", "")


class _State(IntEnum):
    """What was found of an array; the least of its parts holds for the whole."""

    NULL = 0  # some value is null, at any depth
    LOOSE = 1  # it is cut from a larger one, or its buffers end behind its values
    COMPACT = 2


def _compacted(table: pa.Table, where: str) -> list[pa.Array]:
    """Each column as one array that holds its values and no others; copied only where it is no such array.

    An Arrow stream rounds what it takes of a buffer up, so it would show what stands behind a slice. Raises
    `StoreError` for a null.
    """
    arrays = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        chunks = column.chunks
        state = min(map(_state, chunks), default=_State.LOOSE)
        if state is _State.NULL:
            raise StoreError(f"{where}.{name}: holds null; give every row a value (NaN and '' are values)")
        if state is _State.COMPACT and len(chunks) == 1:
            arrays.append(chunks[0])
        else:
            arrays.append(column.take(pa.array(np.arange(len(column)))).combine_chunks())
    return arrays


def _state(array: pa.Array) -> _State:
    if array.null_count:
        return _State.NULL
    return _LOOK.get(type(array), _numbers)(array)


def _numbers(array: pa.Array) -> _State:
    data = array.buffers()[1]
    exact = data is not None and not array.offset and data.size * 8 == len(array) * array.type.bit_width
    return _State.COMPACT if exact else _State.LOOSE


def _booleans(array: pa.Array) -> _State:
    return _State.LOOSE  # their buffer ends with a byte


def _nothings(array: pa.Array) -> _State:
    return _State.COMPACT  # no value, no buffer


def _texts(array: pa.Array) -> _State:
    _, offsets, data = array.buffers()
    exact = not array.offset and _spans(offsets, len(array), 0 if data is None else data.size)
    return _State.COMPACT if exact else _State.LOOSE


def _lists(array: pa.Array) -> _State:
    if not array.offset and _spans(array.buffers()[1], len(array), len(array.values)):
        return _state(array.values)
    return min(_State.LOOSE, _state(array.flatten()))


def _tensors(array: pa.Array) -> _State:
    flat = array.storage.values
    if not array.offset and len(flat) == len(array) * array.type.storage_type.list_size:
        return _state(flat)
    return min(_State.LOOSE, _state(array.storage.flatten()))


def _structs(array: pa.Array) -> _State:
    fields = [array.field(at) for at in range(array.type.num_fields)]
    if not array.offset and all(len(field) == len(array) for field in fields):
        return min(map(_state, fields))
    return min(_State.LOOSE, *map(_state, array.flatten()))


def _spans(offsets: pa.Buffer | None, count: int, end: int) -> bool:
    """Whether offsets are those of so many values, from the start of what they point into to its end."""
    if offsets is None or offsets.size != 4 * (count + 1):
        return False
    bounds = memoryview(offsets).cast("i")
    return bounds[0] == 0 and bounds[-1] == end


_LOOK: dict[type, Callable[[pa.Array], _State]] = {
    pa.BooleanArray: _booleans,
    pa.NullArray: _nothings,
    pa.StringArray: _texts,
    pa.ListArray: _lists,
    pa.StructArray: _structs,
    pa.FixedShapeTensorArray: _tensors,
}
