"""`select.nonzero_advantage`: drop rows without a training signal."""

from typing import Literal

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Select
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R
from genrl_graph.nodes.groups import group_codes


class NonzeroAdvantage(Select, name="nonzero_advantage"):
    """Keeps rows of groups with a non-zero advantage, as DAPO's dynamic sampling does (arXiv 2503.14476).

    With `by: row` it keeps only rows that have one themselves. Rows without a finite advantage are dropped.
    """

    by: Literal["group", "row"] = Field(
        default="group",
        description="what needs a non-zero advantage for a row to be kept: its group, or the row itself",
    )

    def run(self, rows: Credited[R], *, log: Log) -> Credited[R]:
        """Return the selected rows in order.

        Inputs:
            rows: rows with advantages
        """
        advantage = rows.numpy("advantage")
        finite = np.isfinite(advantage)
        has_signal = finite & (advantage != 0.0)
        if self.by == "group" and len(rows):
            codes = group_codes(rows, "group")
            has_signal = np.bincount(codes, weights=has_signal)[codes] > 0
        selected = rows.where(finite & has_signal)
        log.metric("kept", len(selected) / len(rows) if len(rows) else 0.0)
        return selected
