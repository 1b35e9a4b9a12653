"""`advantage.group`: rewards minus the mean reward of their group."""

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R, Scored, credit
from genrl_graph.nodes.advantage.baseline import BaselineAdvantage, log_mean
from genrl_graph.nodes.groups import Scope, group_codes


class GroupAdvantage(BaselineAdvantage, name="group"):
    """Reward minus the mean reward of the group, divided by a standard deviation.

    `scope` selects the rows of the mean: `group` (one prompt at one node of one peer), `task` (a task at a node, over
    all peers), `node`, `peer` (a node of one peer) or `batch`. `scale` and `leave_one_out` are those of
    `BaselineAdvantage`.
    """

    scope: Scope = "group"

    def run(self, scored: Scored[R], *, log: Log) -> Credited[R]:
        """Add an `advantage` to the rows."""
        rewards = scored.numpy("reward")
        log_mean(log, "reward", rewards)
        return credit(scored, self.group_advantages(group_codes(scored, self.scope), rewards, log=log))
