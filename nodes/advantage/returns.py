"""Returns and advantages along trajectories: how rows become whole trajectories, and the recursions over them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from genrl_graph.edge_types.trajectories import Trajectories

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WholeTrajectories:
    """The trajectories among rows that are whole: steps 0, 1, ... to their end, each once.

    `rows` holds the positions of their steps, shape (trajectories, longest), -1 beyond the end of each.
    """

    rows: NDArray[np.int64]

    @classmethod
    def of(cls, given: Trajectories) -> Self:
        """Those of these rows; failed episodes, and what a select or a peer tore apart, are not among them."""
        codes, steps = given.seat_codes(), given.numpy("step").astype(np.int64)
        order = np.lexsort((steps, codes))
        sizes = np.bincount(codes, minlength=0)
        starts = np.cumsum(sizes) - sizes
        within = np.arange(len(order)) - np.repeat(starts, sizes)
        torn = np.bincount(codes[order], weights=steps[order] != within, minlength=len(sizes)) > 0
        ended = given.finish_is("terminated") | given.finish_is("truncated")
        kept = np.flatnonzero(~torn & ended[order[starts + sizes - 1]]) if len(sizes) else starts
        rows = np.full((len(kept), int(sizes[kept].max(initial=0))), -1, dtype=np.int64)
        for at, code in enumerate(kept.tolist()):
            rows[at, : sizes[code]] = order[starts[code] : starts[code] + sizes[code]]
        return cls(rows)

    def laid_out(self, values: NDArray[np.floating]) -> Floats:
        """One value a row as (trajectories, longest), 0 beyond the end of each."""
        return np.where(self.rows >= 0, values[self.rows] if len(values) else 0.0, 0.0).astype(np.float64)

    def gathered(self, laid_out: Floats, count: int) -> Floats:
        """What was laid out as one value for each of `count` rows, NaN for those of no whole trajectory."""
        found = np.full(count, np.nan)
        inside = self.rows >= 0
        found[self.rows[inside]] = laid_out[inside]
        return found

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of steps of each."""
        lengths: NDArray[np.int64] = (self.rows >= 0).sum(axis=1, dtype=np.int64)
        return lengths


def generalized_advantages(
    rewards: Floats, values: Floats, bootstrap: Floats, lengths: NDArray[np.int64], *, gamma: float, lam: float
) -> Floats:
    """GAE (arXiv 1506.02438): the sums of (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t).

    `rewards` and `values` are (trajectories, steps) with 0 beyond the end of each; `bootstrap` is V of what was left
    at the end, 0 after a terminal step. With `lam` 1 and values 0 they are discounted returns.
    """
    count, steps = rewards.shape
    following = np.zeros((count, steps + 1))
    following[:, :steps] = values
    following[np.arange(count), lengths] = bootstrap
    inside = np.arange(steps) < lengths[:, None]
    deltas = np.where(inside, rewards + gamma * following[:, 1:] - values, 0.0)
    advantages = np.zeros_like(deltas)
    ahead = np.zeros(count)
    for step in range(steps - 1, -1, -1):
        ahead = deltas[:, step] + gamma * lam * ahead
        advantages[:, step] = ahead
    return advantages
