"""`advantage.pool`: rewards of several stages against one mean."""

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R, Scored, credit
from genrl_graph.nodes.advantage.baseline import BaselineAdvantage, log_mean
from genrl_graph.nodes.groups import PooledScope, pooled_codes


class PoolAdvantage(BaselineAdvantage, name="pool"):
    """Reward minus the mean reward of a pool of rows that may come from different nodes, over a standard deviation.

    What is wired is pooled, such as first and last answers: `scope` is whose mean, of a task, of a peer at a task, of
    a peer, or of the batch. Their rewards must mean the same. `scale` and `leave_one_out` are those of
    `BaselineAdvantage`, with the pool as the group.
    """

    scope: PooledScope = "task"

    def run(self, scored: list[Scored[R]], *, log: Log) -> Credited[R]:
        """The rows of all inputs, in their order, with an `advantage`; they keep the reward terms that all have."""
        kinds: tuple[type[R], ...] = type(scored[0]).__mro__
        common = next(kind for kind in kinds if all(isinstance(rows, kind) for rows in scored))
        rows = common.concat(scored)
        rewards = rows.numpy("reward")
        log_mean(log, "reward", rewards)
        return credit(rows, self.against(pooled_codes(rows, self.scope), rewards, log=log))
