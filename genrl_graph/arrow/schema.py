"""Column types that can be stored: their JSON form, and the flat arrays that they are split into."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import pyarrow as pa

from genrl_graph.errors import StoreError

SCALARS: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": getattr(pa, f"float{bits}")() for bits in (16, 32, 64)},
    "string": pa.string(),
    "null": pa.null(),
}
MAX_DEPTH = 24  # of lists and structs in each other
MAX_DIMENSIONS = 16
MAX_TENSOR_BYTES = 64 * 2**20  # of one row: a chunk holds at least one
NAMES = {dtype: name for name, dtype in SCALARS.items()}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One flat array: its path, its dtype (`string` or a NumPy name) and the shape of an element.

    `level` says what its length counts: "" for rows, `x/values` for the elements of list `x`. An offsets array has one
    entry more than its level counts, and its entries index the level `into`.
    """

    path: str
    level: str
    dtype: str
    shape: tuple[int, ...] = ()
    into: str | None = None


def schema_json(schema: pa.Schema) -> dict[str, Any]:
    """Convert a schema to readable JSON; raises `StoreError` that names a column whose type cannot be stored."""
    return {field.name: _type_json(field.type, field.name) for field in schema}


def schema_from_json(columns: Mapping[str, Any]) -> pa.Schema:
    """Convert the JSON of `schema_json` back to a schema; raises `StoreError` for any other JSON."""
    return pa.schema([pa.field(name, _type_from_json(value, name)) for name, value in columns.items()])


def leaves(schema: pa.Schema) -> list[Leaf]:
    """Return the flat arrays of a schema in order; offsets come before the values that they index."""
    return [leaf for field in schema for leaf in _leaves(field.type, field.name, "")]


def _type_json(dtype: pa.DataType, where: str, depth: int = 0) -> Any:
    if dtype in NAMES:
        return NAMES[dtype]
    if depth >= MAX_DEPTH:
        raise StoreError(f"{where}: type is nested more than {MAX_DEPTH} deep; flatten it")
    if isinstance(dtype, pa.FixedShapeTensorType) and dtype.value_type in NAMES and dtype.value_type != pa.string():
        if dtype.permutation and dtype.permutation != sorted(dtype.permutation):
            raise StoreError(f"{where}: permuted tensor {dtype} cannot be stored; give it in its own order")
        _check_tensor(dtype.value_type, dtype.shape, where)
        tensor = {"tensor": NAMES[dtype.value_type], "shape": dtype.shape}
        return tensor | ({"dim_names": dtype.dim_names} if dtype.dim_names else {})
    if pa.types.is_list(dtype):
        inner = _type_json(dtype.value_type, where, depth + 1)
        return {"list": inner} | ({} if dtype.value_field.nullable else {"required": True})
    if pa.types.is_struct(dtype) and dtype.num_fields:
        fields = list(dtype)
        described = {field.name: _type_json(field.type, f"{where}.{field.name}", depth + 1) for field in fields}
        required = [field.name for field in fields if not field.nullable]
        return {"struct": described} | ({"required": required} if required else {})
    raise StoreError(f"{where}: type {dtype} cannot be stored; use bool, numbers, string, list, struct or tensor")


def _type_from_json(value: Any, where: str, depth: int = 0) -> pa.DataType:
    """Return the type that `_type_json` described; raises `StoreError` for anything that it does not give."""
    if isinstance(value, str) and value in SCALARS:
        return SCALARS[value]
    if isinstance(value, dict) and depth < MAX_DEPTH:
        if isinstance(value.get("tensor"), str):
            return _tensor_from_json(value, where)
        if "list" in value:
            inner = _type_from_json(value["list"], where, depth + 1)
            return pa.list_(pa.field("item", inner, nullable="required" not in value))
        if isinstance(fields := value.get("struct"), dict) and fields:
            required = value.get("required") or []
            return pa.struct(
                pa.field(name, _type_from_json(inner, f"{where}.{name}", depth + 1), nullable=name not in required)
                for name, inner in fields.items()
            )
    raise StoreError(f"{where}: {str(value)[:80]!r} is no type of a column; restore the folder from a copy")


def _tensor_from_json(value: Mapping[str, Any], where: str) -> pa.DataType:
    shape, dtype, names = value.get("shape"), SCALARS.get(value["tensor"], pa.string()), value.get("dim_names")
    whole = isinstance(shape, list) and all(isinstance(extent, int) for extent in shape)
    named = names is None or (isinstance(names, list) and isinstance(shape, list) and len(names) == len(shape))
    if not whole or not named or dtype in (pa.string(), pa.null()) or not all(isinstance(n, str) for n in names or ()):
        raise StoreError(f"{where}: {str(value)[:80]!r} is no type of a column; restore the folder from a copy")
    _check_tensor(dtype, value["shape"], where)
    return pa.fixed_shape_tensor(dtype, shape, dim_names=names)


def _check_tensor(dtype: pa.DataType, shape: Sequence[int], where: str) -> None:
    """Raise `StoreError` for a tensor whose shape is none, or which has more than `MAX_TENSOR_BYTES`."""
    size = dtype.bit_width / 8 * prod(max(extent, 1) for extent in shape)
    if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0 or size > MAX_TENSOR_BYTES:
        what = f"tensors of shape {list(shape)[:MAX_DIMENSIONS]} have {size:.3g} bytes"
        raise StoreError(f"{where}: {what}, of {MAX_TENSOR_BYTES} and {MAX_DIMENSIONS} dimensions at most")


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
