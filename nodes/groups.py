"""Which rows belong together: the scopes of baselines and of selections."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genrl_graph.errors import ColumnError
from genrl_graph.frames import Frame

Scope = Literal["group", "task", "node", "peer", "batch"]

# `group_id` of an admitted row is what its peer wrote: with node and peer no one can slip rows into another's group.
COLUMNS: Mapping[Scope, tuple[str, ...]] = {
    "group": ("group_id", "node", "peer"),
    "task": ("task_id", "node"),
    "node": ("node",),
    "peer": ("peer", "node"),
    "batch": (),
}


def group_codes(rows: Frame, scope: Scope) -> NDArray[np.int64]:
    """For each row the number of its group, from 0 on; raises `ColumnError` where a column of the scope is missing."""
    codes: NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
    for name in COLUMNS[scope]:
        if name not in rows.table.column_names:
            raise ColumnError(f"{type(rows).__name__}: scope {scope!r} needs the column {name!r}")
        encoded: Any = rows.table.column(name).combine_chunks().dictionary_encode()
        codes = codes * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)
