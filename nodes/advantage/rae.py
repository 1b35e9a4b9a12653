"""`advantage.rae`: outcomes against the baseline of their role."""

import numpy as np

from genrl_graph.contract.node import Advantage
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R, Scored, credit
from genrl_graph.nodes.advantage.baseline import log_mean
from genrl_graph.nodes.roles import endings
from genrl_graph.nodes.update.baselines import Baselines


class RoleAdvantage(Advantage, name="rae"):
    """Role-conditioned advantage estimation (arXiv 2506.24119): the outcome of a trajectory less its role's baseline.

    Every step of a trajectory gets the same. In a zero-sum game both seats of self-play earn 0 on average together,
    but not each: the one who moves first wins more often, and a baseline for both would teach that instead of play.
    Wire `baselines` behind `update.baselines` for the order of the paper, or to the carry for means of earlier rounds.
    """

    def run(self, scored: Scored[R], baselines: Baselines, *, log: Log) -> Credited[R]:
        """The rows with an `advantage`; NaN where the outcome could not be judged."""
        ending = endings(scored)
        against = np.asarray([baselines.of(role) for role in ending.roles], dtype=np.float64)
        log_mean(log, "reward", ending.outcomes)
        return credit(scored, (ending.outcomes - against)[ending.of_row])
