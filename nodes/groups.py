"""Scopes that group rows, for baselines and selections."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genrl_graph.contract.origins import RowOrigin
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ColumnError

Scope = Annotated[
    Literal["group", "task", "node", "peer", "batch"],
    Field(
        description="rows with one baseline: of a prompt (group), of a task over all peers, of the node, "
        "of the node and peer, or all (batch)"
    ),
]
PooledScope = Annotated[
    Literal["task", "task_and_peer", "peer", "batch"],
    Field(
        description="rows with one baseline: of a task over all peers, of a task and peer, of a peer, or all (batch)"
    ),
]

# A peer writes the `group_id` of its own rows; with node and peer added it cannot put rows into another peer's group.
COLUMNS: Mapping[Scope, tuple[str, ...]] = {
    "group": ("group_id", "node", "peer"),
    "task": ("task_id", "node"),
    "node": ("node",),
    "peer": ("peer", "node"),
    "batch": (),
}
POOLED: Mapping[PooledScope, tuple[str, ...]] = {
    "task": ("task_id",),
    "task_and_peer": ("task_id", "peer"),
    "peer": ("peer",),
    "batch": (),
}


def group_codes(rows: Frame, scope: Scope) -> NDArray[np.int64]:
    """Return the group number of each row, from 0 on; only scope `batch` groups rows of different nodes.

    Raises `ColumnError` if a column of the scope is missing.
    """
    return _codes(rows, COLUMNS[scope], scope)


def pooled_codes(rows: Frame, scope: PooledScope) -> NDArray[np.int64]:
    """Return the group number of each row, from 0 on; a group may hold rows of several nodes.

    Raises `ColumnError` if a column of the scope is missing.
    """
    return _codes(rows, POOLED[scope], scope)


def alike_groups(origins: Sequence[RowOrigin], scope: Scope) -> list[str]:
    """Return, for each generator whose rows of a group are all alike, why they are and which param to set.

    The groups of scope `task` behind an exchange hold rows of other peers too, which differ.
    """
    if scope == "group":
        reasons = [origin.alike("prompt") for origin in origins if origin.own]
    else:
        reasons = [origin.alike("task") for origin in origins if scope == "task" and not origin.from_peers]
    return [reason for reason in dict.fromkeys(reasons) if reason]


def alike_pools(origins: Sequence[RowOrigin], scope: PooledScope) -> list[str]:
    """Return why all rows of a pool are alike, and which param to set; rows of a second generator differ."""
    if len({origin.name for origin in origins}) != 1 or scope not in ("task", "task_and_peer"):
        return []
    apart = scope == "task_and_peer" or not any(origin.from_peers for origin in origins)
    reason = origins[0].alike("task") if apart and origins[0].own else ""
    return [reason] if reason else []


def _codes(rows: Frame, columns: Sequence[str], scope: str) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
    for name in columns:
        if name not in rows.table.column_names:
            raise ColumnError(f"{type(rows).__name__}: scope {scope!r} needs the column {name!r}")
        encoded: Any = rows.table.column(name).combine_chunks().dictionary_encode()
        codes = codes * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)
