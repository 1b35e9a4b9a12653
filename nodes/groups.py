"""Scopes that group rows, for baselines and selections."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

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


def _codes(rows: Frame, columns: Sequence[str], scope: str) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
    for name in columns:
        if name not in rows.table.column_names:
            raise ColumnError(f"{type(rows).__name__}: scope {scope!r} needs the column {name!r}")
        encoded: Any = rows.table.column(name).combine_chunks().dictionary_encode()
        codes = codes * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)
