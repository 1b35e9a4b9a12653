"""Game steps in the form that a generator returns, with made-up rewards and values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fixture_types import MakeSteps

from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.trajectories import Trajectories


@pytest.fixture(scope="session")
def make_steps() -> MakeSteps:
    """Return `make_steps([[reward, ...], ...])`: one trajectory per list; other arguments are per trajectory."""
    return steps_of


def steps_of(
    rewards: Sequence[Sequence[float]],
    *,
    values: Sequence[Sequence[float]] | None = None,
    bootstrap: Sequence[float] | None = None,
    finish_reason: Sequence[str] | None = None,
    seats: Sequence[int] | None = None,
    source: str = "tasks",
) -> Trajectories:
    rows: list[dict[str, Any]] = []
    for at, earned in enumerate(rewards):
        for step, reward in enumerate(earned):
            last = step == len(earned) - 1
            rows.append(
                {
                    "id": f"{at}-{step}",
                    "task_id": f"{source}/{at}",
                    "group_id": f"g{at}",
                    "peer": "peer0000",
                    "node": "play",
                    "stage": 0,
                    "round": 0,
                    "sample": 0,
                    "policy": "policy",
                    "policy_version": 0,
                    "seat": seats[at] if seats else 0,
                    "step": step,
                    "observation": np.zeros(3, np.float32),
                    "mask": np.ones(2, np.int8),
                    "action": 0,
                    "logprob": -0.5,
                    "value": values[at][step] if values else 0.0,
                    "bootstrap": bootstrap[at] if bootstrap and last else 0.0,
                    "finish_reason": (finish_reason[at] if finish_reason else "terminated") if last else "",
                    "error": "",
                    "reward": reward,
                }
            )
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Trajectories.from_columns(columns, marks=[SCORED])
