"""`advantage.rae`: outcomes minus the baseline of their role."""

import numpy as np

from genrl_graph.contract.node import Advantage
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R, Scored, credit
from genrl_graph.nodes.advantage.baseline import log_mean
from genrl_graph.nodes.roles import endings
from genrl_graph.nodes.update.baselines import Baselines


class RoleAdvantage(Advantage, name="rae"):
    """Role-conditioned advantage estimation (arXiv 2506.24119): a trajectory's outcome minus its role's baseline.

    Every step of a trajectory gets the same advantage. In zero-sum self-play the mean outcome over both seats is 0, but
    not that of each seat: where the first player wins more often, one shared baseline would reward the seat instead of
    the play. Wire `baselines` to `update.baselines` for the order of the paper, or to the carry for the means of
    earlier rounds.
    """

    def run(self, scored: Scored[R], baselines: Baselines, *, log: Log) -> Credited[R]:
        """Add an `advantage` to the rows; NaN where the outcome could not be judged.

        Inputs:
            scored: rows with rewards; the outcome of a trajectory is the sum of its rewards
            baselines: running mean outcome of each role
        """
        ending = endings(scored)
        means = np.asarray([baselines.of(role) for role in ending.roles], dtype=np.float64)
        log_mean(log, "reward", ending.outcomes)
        return credit(scored, (ending.outcomes - means)[ending.of_row])
