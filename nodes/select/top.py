"""`select.top`: the best rows of each group, task or peer."""

from typing import Literal

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Select
from genrl_graph.edge_types.rollouts import R, Scored
from genrl_graph.errors import ColumnError
from genrl_graph.nodes.groups import group_codes


class Top(Select, name="top"):
    """Keeps the `k` rows with the highest `column` per group, task (at a node, over all peers) or peer.

    Among equal values the earlier rows are kept. Rows with NaN (not judged) are dropped, and so are rows below
    `at_least`, for rejection sampling. The order of the rows does not change.
    """

    k: int = Field(ge=1, description="rows to keep, those of the highest value")
    column: str = Field(default="reward", description="numeric column whose value decides")
    at_least: float | None = Field(
        default=None, description="least value of a row that is kept (rejection sampling); null: no limit"
    )
    per: Literal["group", "task", "peer"] = Field(
        default="group",
        description="rows among which k are kept: a prompt's group, a task at a node over all peers, or a peer's node",
    )

    def run(self, rows: Scored[R]) -> Scored[R]:
        """Return the selected rows; raises `ColumnError` if `column` is missing or not numeric.

        Inputs:
            rows: rows to choose from
        """
        names = rows.table.column_names
        if self.column not in names:
            raise ColumnError(f"{self.place.node}: no column {self.column!r}; there are {', '.join(names)}")
        values = rows.numpy(self.column)
        if values.ndim != 1 or values.dtype.kind not in "iuf":
            raise ColumnError(f"{self.place.node}: column {self.column!r} holds no numbers to order rows by")
        codes = group_codes(rows, self.per)
        best_first = np.lexsort((np.arange(len(rows)), -values.astype(np.float64), codes))
        ordered_values = values[best_first].astype(np.float64)
        best_first = best_first[ordered_values >= (-np.inf if self.at_least is None else self.at_least)]
        ordered = codes[best_first]
        rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
        return rows.take(np.sort(best_first[rank < self.k]))
