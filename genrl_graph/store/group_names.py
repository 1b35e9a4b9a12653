"""The names of groups and columns: each is a path in `rollouts.zarr`, and no two of them are the same path."""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from genrl_graph.errors import StoreError
from genrl_graph.store.run_path import PARTIAL, RunPath, check_name

STEPS = "steps"
STEPS_SCHEMA = pa.schema(
    [("round", pa.int32()), *((name, pa.string()) for name in ("node", "holder", "rows", "facts", "digest"))]
)
METADATA = "zarr.json"


def group_path(arrays: RunPath, group: str) -> RunPath:
    """Return the folder of a group; raises `StoreError` for a name that no group can have."""
    path = arrays
    for part in group.split("/"):
        path /= _check_part(part, group or "a group")
    return path


def leaf_path(group: RunPath, leaf: str) -> RunPath:
    """Return the folder of the flat array `leaf` of a group."""
    path = group
    for part in leaf.split("/"):
        path /= part
    return path


def check_group(group: str) -> None:
    """Raise `StoreError` for a name that no group of rows can have."""
    for part in group.split("/"):
        _check_part(part, group or "a group")
    if group.split("/")[0] == STEPS:
        raise StoreError(f"{group}: the name {STEPS!r} is taken by the record of all steps; rename the node")


def check_columns(schema: pa.Schema, group: str) -> None:
    """Raise `StoreError` for columns, or fields in them, whose names cannot be parts of a path, or occur twice."""
    _check_fields(list(schema), group)


def check_distinct(columns: Mapping[str, Sequence[str]]) -> None:
    """Raise `StoreError` where a group and a column of another one, by group, would share a path."""
    names = {group: frozenset(of_group) for group, of_group in columns.items()}
    for inner in names:
        parts = inner.split("/")
        for at in range(1, len(parts)):
            outer = "/".join(parts[:at])
            if parts[at] in names.get(outer, ()):
                raise StoreError(f"{inner}: group {outer!r} has a column {parts[at]!r}; rename one of them")


def _check_part(part: str, where: str) -> str:
    check_name(part, where)
    if part.startswith("__") or part == METADATA or part.endswith(PARTIAL):
        raise StoreError(f"{where}: {part!r} cannot name a group or a column; rename it")
    return part


def _check_fields(fields: Iterable[pa.Field], where: str) -> None:
    seen: set[str] = set()
    for field in fields:
        _check_part(field.name, where)
        if field.name in seen:
            raise StoreError(f"{where}.{field.name}: two columns have this name; rename one of them")
        seen.add(field.name)
        kind = field.type
        while pa.types.is_list(kind):
            kind = kind.value_type
        if pa.types.is_struct(kind):
            _check_fields(kind, f"{where}.{field.name}")
