"""Returns and advantages along trajectories: collect rows into complete trajectories and run GAE over them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from genrl_graph.edge_types.trajectories import Trajectories

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WholeTrajectories:
    """Complete trajectories: steps 0, 1, ... up to a terminated or truncated step, each once.

    `rows` holds the row positions of their steps, shape (trajectories, longest), padded with -1.
    """

    rows: NDArray[np.int64]

    @classmethod
    def of(cls, frame: Trajectories) -> Self:
        """Collect the complete trajectories; leave out failed episodes and those with missing or repeated steps."""
        codes, steps = frame.trajectory_codes(), frame.numpy("step").astype(np.int64)
        order = np.lexsort((steps, codes))
        sizes = np.bincount(codes, minlength=0)
        starts = np.cumsum(sizes) - sizes
        within = np.arange(len(order)) - np.repeat(starts, sizes)
        incomplete = np.bincount(codes[order], weights=steps[order] != within, minlength=len(sizes)) > 0
        ended = frame.finish_is("terminated") | frame.finish_is("truncated")
        complete = np.flatnonzero(~incomplete & ended[order[starts + sizes - 1]]) if len(sizes) else starts
        rows = np.full((len(complete), int(sizes[complete].max(initial=0))), -1, dtype=np.int64)
        for at, code in enumerate(complete.tolist()):
            rows[at, : sizes[code]] = order[starts[code] : starts[code] + sizes[code]]
        return cls(rows)

    def pad(self, values: NDArray[np.floating]) -> Floats:
        """Arrange one value per row as (trajectories, longest), padded with 0."""
        return np.where(self.rows >= 0, values[self.rows] if len(values) else 0.0, 0.0).astype(np.float64)

    def unpad(self, padded: Floats, count: int) -> Floats:
        """Undo `pad` for `count` rows; rows outside a complete trajectory get NaN."""
        values = np.full(count, np.nan)
        inside = self.rows >= 0
        values[self.rows[inside]] = padded[inside]
        return values

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of steps per trajectory."""
        lengths: NDArray[np.int64] = (self.rows >= 0).sum(axis=1, dtype=np.int64)
        return lengths


def generalized_advantages(
    rewards: Floats, values: Floats, bootstrap: Floats, lengths: NDArray[np.int64], *, gamma: float, lam: float
) -> Floats:
    """GAE (arXiv 1506.02438): the sums of (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t).

    `rewards` and `values` are (trajectories, steps), padded with 0; `bootstrap` [trajectories] is V of the state after
    the last step, 0 if that step terminated. With `lam` 1 and values 0 the result is the discounted returns.
    """
    count, steps = rewards.shape
    next_values = np.zeros((count, steps + 1))
    next_values[:, :steps] = values
    next_values[np.arange(count), lengths] = bootstrap
    inside = np.arange(steps) < lengths[:, None]
    deltas = np.where(inside, rewards + gamma * next_values[:, 1:] - values, 0.0)
    advantages = np.zeros_like(deltas)
    advantage = np.zeros(count)
    for step in range(steps - 1, -1, -1):
        advantage = deltas[:, step] + gamma * lam * advantage
        advantages[:, step] = advantage
    return advantages
