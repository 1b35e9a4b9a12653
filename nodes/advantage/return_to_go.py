"""`advantage.return_to_go`: discounted rewards from a step to the end of its trajectory."""

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
    """The discounted rewards from a step to the end of its trajectory, minus a baseline.

    `baseline` is the mean over all rows (batch), over the rows of the same step index (step), or none. Truncated
    episodes are not bootstrapped. Steps of failed or incomplete episodes get NaN.
    """

    gamma: float = Field(default=0.99, ge=0, le=1, description="discount of a step")
    baseline: Literal["batch", "step", "none"] = Field(
        default="batch",
        description="mean return that is subtracted: over all rows, over rows of the same step index, or none",
    )

    def run(self, scored: Scored[Trajectories], *, log: Log) -> Credited[Trajectories]:
        """Add an `advantage` to the rows.

        Inputs:
            scored: steps with their rewards, in whole trajectories
        """
        whole = WholeTrajectories.of(scored)
        rewards = whole.pad(scored.numpy("reward"))
        no_values, no_bootstrap = np.zeros_like(rewards), np.zeros(len(rewards))
        returns = generalized_advantages(rewards, no_values, no_bootstrap, whole.lengths, gamma=self.gamma, lam=1.0)
        inside = whole.rows >= 0
        if self.baseline == "batch" and inside.any():
            returns = returns - returns[inside].mean()
        elif self.baseline == "step":
            returns = returns - returns.sum(axis=0) / np.maximum(inside.sum(axis=0), 1)
        log_mean(log, "reward", scored.numpy("reward"))
        return credit(scored, whole.unpad(returns, len(scored)))
