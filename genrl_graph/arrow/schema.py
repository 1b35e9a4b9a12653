"""Column types that can be stored: their JSON form, and the flat arrays that they are split into."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    """Convert the JSON of `schema_json` back to a schema."""
    return pa.schema([pa.field(name, _type_from_json(value)) for name, value in columns.items()])


def leaves(schema: pa.Schema) -> list[Leaf]:
    """Return the flat arrays of a schema in order; offsets come before the values that they index."""
    return [leaf for field in schema for leaf in _leaves(field.type, field.name, "")]


def _type_json(dtype: pa.DataType, where: str) -> Any:
    if dtype in NAMES:
        return NAMES[dtype]
    if isinstance(dtype, pa.FixedShapeTensorType) and dtype.value_type in NAMES and dtype.value_type != pa.string():
        if dtype.permutation and dtype.permutation != sorted(dtype.permutation):
            raise StoreError(f"{where}: permuted tensor {dtype} cannot be stored; give it in its own order")
        tensor = {"tensor": NAMES[dtype.value_type], "shape": dtype.shape}
        return tensor | ({"dim_names": dtype.dim_names} if dtype.dim_names else {})
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
