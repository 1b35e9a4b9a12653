"""`advantage.return_to_go`: what was earned from a step on."""

from typing import Literal

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Advantage
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, Scored, credit
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.nodes.advantage.baseline import log_mean
from genrl_graph.nodes.advantage.returns import WholeTrajectories, generalized_advantages


class ReturnToGo(Advantage, name="return_to_go"):
    """The discounted rewards from a step to the end of its trajectory, less a baseline.

    `baseline` is the mean over all rows, over the rows of the same step, or none. What a truncated episode left is not
    counted. Steps of episodes that failed, or that are not whole any more, get NaN.
    """

    gamma: float = Field(0.99, ge=0, le=1, description="discount of a step")
    baseline: Literal["batch", "step", "none"] = "batch"

    def run(self, scored: Scored[Trajectories], *, log: Log) -> Credited[Trajectories]:
        """The rows with an `advantage`."""
        whole = WholeTrajectories.of(scored)
        rewards = whole.laid_out(scored.numpy("reward"))
        nothing = np.zeros(len(rewards))
        returns = generalized_advantages(
            rewards, np.zeros_like(rewards), nothing, whole.lengths, gamma=self.gamma, lam=1.0
        )
        inside = whole.rows >= 0
        if self.baseline == "batch" and inside.any():
            returns = returns - returns[inside].mean()
        elif self.baseline == "step":
            returns = returns - returns.sum(axis=0) / np.maximum(inside.sum(axis=0), 1)
        log_mean(log, "reward", scored.numpy("reward"))
        return credit(scored, whole.gathered(returns, len(scored)))
