"""`advantage.group`: rewards against the mean of their group."""

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R, Scored, credit
from genrl_graph.nodes.advantage.baseline import BaselineAdvantage, log_mean
from genrl_graph.nodes.groups import Scope, group_codes


class GroupAdvantage(BaselineAdvantage, name="group"):
    """Reward minus the mean reward of the group, over a standard deviation.

    `scope` is whose mean: of the group (one prompt at one node of one peer), of a task at a node over all peers, of
    a node, of a peer's node, or of the batch. `scale` and `leave_one_out` are those of `BaselineAdvantage`.
    """

    scope: Scope = "group"

    def run(self, scored: Scored[R], *, log: Log) -> Credited[R]:
        """The rows with an `advantage`."""
        rewards = scored.numpy("reward")
        log_mean(log, "reward", rewards)
        return credit(scored, self.against(group_codes(scored, self.scope), rewards, log=log))
