"""`select.nonzero_advantage`: drops what no update can learn from."""

from typing import Literal

import numpy as np

from genrl_graph.contract.node import Select
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R
from genrl_graph.nodes.groups import group_codes


class NonzeroAdvantage(Select, name="nonzero_advantage"):
    """Keeps the rows with a finite advantage whose group has a non-zero one (`by: row`: that have one themselves)."""

    by: Literal["group", "row"] = "group"

    def run(self, rows: Credited[R], *, log: Log) -> Credited[R]:
        """The rows kept, in their order."""
        advantage = rows.numpy("advantage")
        finite = np.isfinite(advantage)
        teaches = finite & (advantage != 0.0)
        if self.by == "group" and len(rows):
            codes = group_codes(rows, "group")
            teaches = np.bincount(codes, weights=teaches)[codes] > 0
        kept = rows.where(finite & teaches)
        log.metric("kept", len(kept) / len(rows) if len(rows) else 0.0)
        return kept
