"""Arrow columns as flat arrays and back.

Allowed types are booleans, numbers, strings, `list<T>`, `struct<...>` and `fixed_shape_tensor`, nested at will.
No value is null. A column `x` of n rows becomes these flat arrays:

    number, boolean, string   x                       shape (n,)
    fixed_shape_tensor        x                       shape (n, *tensor shape)
    struct                    x/<field>               each of n
    list                      x/offsets, x/values     shapes (n + 1,) int64 and (offsets[n],)

so row i of a list is `values[offsets[i]:offsets[i + 1]]`, and appending adds one offset a row.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrl_graph.errors import StoreError

Flat = NDArray[Any]
Read = Callable[[str, int, int], Flat]

SCALARS: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": getattr(pa, f"float{bits}")() for bits in (16, 32, 64)},
    "string": pa.string(),
    "null": pa.null(),
}
NAMES = {dtype: name for name, dtype in SCALARS.items()}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One flat array: its path, dtype (`string` or a numpy name) and shape of an element.

    `level` names what is counted by its length ("" counts rows, `x/values` the elements of list `x`); an offsets
    array counts `level` plus one and points into the level `into`.
    """

    path: str
    level: str
    dtype: str
    shape: tuple[int, ...] = ()
    into: str | None = None


def schema_json(schema: pa.Schema) -> dict[str, Any]:
    """A schema as readable JSON; raises `StoreError` naming the column whose type cannot be stored."""
    return {field.name: _type_json(field.type, field.name) for field in schema}


def schema_from_json(columns: Mapping[str, Any]) -> pa.Schema:
    """The schema that `schema_json` described."""
    return pa.schema([pa.field(name, _type_from_json(value)) for name, value in columns.items()])


def leaves(schema: pa.Schema) -> list[Leaf]:
    """The flat arrays that tables of a schema become; parents stand before what they point into."""
    return [leaf for field in schema for leaf in _leaves(field.type, field.name, "")]


def split(table: pa.Table) -> dict[str, Flat]:
    """The flat arrays of a table without nulls; offsets are the n ends, counted from the table's own start."""
    parts: dict[str, Flat] = {}
    for name in table.column_names:
        _split(table.column(name).combine_chunks(), name, parts)
    return parts


def join(schema: pa.Schema, read: Read, start: int, stop: int) -> pa.Table:
    """The rows from start to stop, where `read(path, start, stop)` gives elements of a flat array.

    Raises `StoreError` where the rows hold more list elements or text than one Arrow array can.
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
    """No rows of a schema, also where Arrow cannot make them (lists of tensors)."""
    dtypes = {leaf.path: (object if leaf.dtype == "string" else leaf.dtype) for leaf in leaves(schema)}
    return join(schema, lambda path, start, stop: np.zeros(stop - start, dtypes[path]), 0, 0)


def null_column(table: pa.Table) -> str | None:
    """The first column that holds a null at any depth, if there is one."""
    for name in table.column_names:
        if any(_has_null(chunk) for chunk in table.column(name).chunks):
            return str(name)
    return None


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
    bad = null_column(table)
    if bad is not None:
        raise StoreError(f"{where}.{bad}: holds null; give every row a value (NaN and '' are values)")
    if table.num_rows == 0:
        return empty(schema)
    return pa.Table.from_arrays([_compact(column) for column in _cast(table, schema).columns], schema=schema)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table if table.schema == schema else table.cast(schema)


def _compact(column: pa.ChunkedArray) -> pa.Array:
    """One array of the same values that holds no others; copied only where it is cut from a larger one.

    An Arrow stream rounds what it takes of a buffer up, so it would show what stands behind a slice.
    """
    if column.num_chunks == 1 and _is_compact(column.chunk(0)):
        return column.chunk(0)
    return column.take(pa.array(np.arange(len(column)))).combine_chunks()


def _is_compact(array: pa.Array) -> bool:
    """Whether the buffers of an array end with its values; those of booleans end with a byte, so never."""
    if array.offset or pa.types.is_boolean(array.type):
        return False
    if isinstance(array.type, pa.FixedShapeTensorType):
        flat = array.storage.values
        return len(flat) == len(array) * array.type.storage_type.list_size and _is_compact(flat)
    if pa.types.is_struct(array.type):
        fields = [array.field(at) for at in range(array.type.num_fields)]
        return all(len(field) == len(array) and _is_compact(field) for field in fields)
    if pa.types.is_null(array.type):
        return True
    if not pa.types.is_list(array.type) and not pa.types.is_string(array.type):
        return bool(array.buffers()[1].size * 8 == len(array) * array.type.bit_width)
    offsets, data = array.buffers()[1:3]
    if offsets is None or offsets.size != 4 * (len(array) + 1):
        return False
    bounds = np.frombuffer(offsets, np.int32)
    if pa.types.is_list(array.type):
        return bool(bounds[0] == 0 and bounds[-1] == len(array.values) and _is_compact(array.values))
    return bool(bounds[0] == 0 and bounds[-1] == (0 if data is None else data.size))


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
    for field in known:
        given = table.schema.field(field.name).type
        if given != field.type and _bare(given) != _bare(field.type):
            raise StoreError(f"{where}.{field.name}: type {given}; earlier rows have {field.type}")
    return table


def _bare(dtype: pa.DataType) -> str:
    """A type without its marks of what may be null: nothing stored is."""
    return str(dtype).replace(" not null", "")


def _type_json(dtype: pa.DataType, where: str) -> Any:
    if dtype in NAMES:
        return NAMES[dtype]
    if isinstance(dtype, pa.FixedShapeTensorType) and dtype.value_type in NAMES and dtype.value_type != pa.string():
        if dtype.permutation and dtype.permutation != sorted(dtype.permutation):
            raise StoreError(f"{where}: permuted tensor {dtype} cannot be stored; give it in its own order")
        shown = {"tensor": NAMES[dtype.value_type], "shape": dtype.shape}
        return shown | ({"dim_names": dtype.dim_names} if dtype.dim_names else {})
    if pa.types.is_list(dtype):
        inner = _type_json(dtype.value_type, where)
        return {"list": inner} | ({} if dtype.value_field.nullable else {"required": True})
    if pa.types.is_struct(dtype) and dtype.num_fields:
        fields = list(dtype)
        described = {field.name: _type_json(field.type, f"{where}.{field.name}") for field in fields}
        required = [field.name for field in fields if not field.nullable]
        return {"struct": described} | ({"required": required} if required else {})
    raise StoreError(f"{where}: type {dtype} cannot be stored; use bool, numbers, string, list, struct or tensor")


def _type_from_json(value: Any) -> pa.DataType:
    if isinstance(value, str):
        return SCALARS[value]
    if "tensor" in value:
        return pa.fixed_shape_tensor(SCALARS[value["tensor"]], value["shape"], dim_names=value.get("dim_names"))
    if "list" in value:
        return pa.list_(pa.field("item", _type_from_json(value["list"]), nullable="required" not in value))
    required = value.get("required", [])
    fields = value["struct"].items()
    return pa.struct([pa.field(k, _type_from_json(v), nullable=k not in required) for k, v in fields])


def _leaves(dtype: pa.DataType, path: str, level: str) -> Iterator[Leaf]:
    if isinstance(dtype, pa.FixedShapeTensorType):
        yield Leaf(path, level, NAMES[dtype.value_type], tuple(dtype.shape))
    elif pa.types.is_list(dtype):
        yield Leaf(f"{path}/offsets", level, "int64", into=f"{path}/values")
        yield from _leaves(dtype.value_type, f"{path}/values", f"{path}/values")
    elif pa.types.is_struct(dtype):
        for field in dtype:
            yield from _leaves(field.type, f"{path}/{field.name}", level)
    elif not pa.types.is_null(dtype):
        yield Leaf(path, level, NAMES[dtype])


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


def _has_null(array: pa.Array) -> bool:
    if array.null_count:
        return True
    if isinstance(array.type, pa.FixedShapeTensorType):
        return bool(array.storage.flatten().null_count)
    if pa.types.is_list(array.type):
        return _has_null(array.flatten())
    if pa.types.is_struct(array.type):
        return any(_has_null(child) for child in array.flatten())
    return False
