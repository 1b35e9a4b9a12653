"""Roles and outcomes of trajectories, for baselines that are kept per role."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrl_graph.edge_types.frame import Frame


@dataclass(frozen=True, slots=True)
class TrajectoryOutcomes:
    """Role and outcome of each trajectory; the outcome is the sum of its rewards, NaN if one of them is NaN.

    `of_row` holds the trajectory number of each row.
    """

    roles: Sequence[str]
    outcomes: NDArray[np.float64]
    of_row: NDArray[np.int64]


def endings(rows: Frame) -> TrajectoryOutcomes:
    """Return role and outcome of every trajectory, ordered by first row; some types have one row a trajectory.

    The role is `<source>/<value of the type's role column>`: the seat for steps and turns of games, else the node.
    """
    _, first, of_row = np.unique(rows.trajectory_codes(), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    of_row, first = rank[of_row], first[order]
    sources = [task_id.partition("/")[0] for task_id in rows.take(first).values("task_id")]
    parts = rows.take(first).values(rows.role_column)
    outcomes = np.zeros(len(first))
    np.add.at(outcomes, of_row, rows.numpy("reward"))
    roles = [f"{source}/{part}" for source, part in zip(sources, parts, strict=True)]
    return TrajectoryOutcomes(roles, outcomes, of_row)
