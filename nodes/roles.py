"""Which role a row was played in, and how that ended: for baselines that tell roles apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.trajectories import Trajectories


@dataclass(frozen=True, slots=True)
class Ending:
    """How each trajectory ended: its role and its outcome, the sum of its rewards (NaN where one is).

    `of_row` is the number of the trajectory of each row.
    """

    roles: Sequence[str]
    outcomes: NDArray[np.float64]
    of_row: NDArray[np.int64]


def endings(rows: Frame) -> Ending:
    """The trajectories of rows in the order in which they begin; rows that are no steps are one each.

    A role is `<source>/<seat>` of steps, `<source>/<node>` of other rows: the game, and the part played in it.
    """
    steps = isinstance(rows, Trajectories)
    codes = rows.seat_codes() if isinstance(rows, Trajectories) else np.arange(len(rows))
    _, first, of_row = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    of_row, first = rank[of_row], first[order]
    sources = [task_id.partition("/")[0] for task_id in rows.take(first).values("task_id")]
    parts = rows.take(first).values("seat" if steps else "node")
    outcomes = np.zeros(len(first))
    np.add.at(outcomes, of_row, rows.numpy("reward"))
    return Ending([f"{game}/{part}" for game, part in zip(sources, parts, strict=True)], outcomes, of_row)
