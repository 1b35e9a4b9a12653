"""`advantage.gae`: generalised advantage estimation along trajectories."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Advantage
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.trajectories import VALUED, Trajectories, Valued
from genrl_graph.nodes.advantage.baseline import log_mean
from genrl_graph.nodes.advantage.returns import WholeTrajectories, generalized_advantages


class GaeAdvantage(Advantage, name="gae"):
    """Generalised advantage estimation (arXiv 1506.02438) from the rewards and the critic's values of every step.

    The critic's `target` is advantage + value. After a terminated step nothing is bootstrapped; a truncated one adds
    its bootstrapped value. Steps of failed or incomplete episodes get NaN.
    """

    gamma: float = Field(default=0.99, ge=0, le=1, description="discount of a step")
    lam: float = Field(default=0.95, ge=0, le=1, description="0 trusts the critic, 1 the rewards")

    def run(self, scored: Scored[Trajectories], *, log: Log) -> Valued[Trajectories]:
        """Add an `advantage` and a `target` to the rows.

        Inputs:
            scored: steps with their rewards and the critic's values, in whole trajectories
        """
        whole, values = WholeTrajectories.of(scored), scored.numpy("value").astype(np.float64)
        ends = whole.rows[np.arange(len(whole.rows)), whole.lengths - 1]
        advantages = generalized_advantages(
            whole.pad(scored.numpy("reward")),
            whole.pad(values),
            scored.numpy("bootstrap").astype(np.float64)[ends],
            whole.lengths,
            gamma=self.gamma,
            lam=self.lam,
        )
        row_advantages = whole.unpad(advantages, len(scored))
        targets = row_advantages + values
        log_mean(log, "reward", scored.numpy("reward"))
        finite = np.isfinite(targets)
        log.metric("left_out", len(scored) - int(finite.sum()))
        if finite.any() and (variance := float(targets[finite].var())) > 0:
            log.metric("explained_variance", 1.0 - float(row_advantages[finite].var()) / variance)
        return scored.marked(VALUED, {"advantage": row_advantages, "target": targets})
