"""`advantage.group`: rewards minus the mean reward of their group."""

from collections.abc import Iterable, Mapping, Sequence

from genrl_graph.contract.origins import RowOrigin
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R, Scored, credit
from genrl_graph.nodes.advantage.baseline import BaselineAdvantage, log_mean
from genrl_graph.nodes.groups import Scope, alike_groups, group_codes


class GroupAdvantage(BaselineAdvantage, name="group"):
    """Reward minus the mean reward of the group, divided by a standard deviation (GRPO, arXiv 2402.03300).

    `scope` selects the rows of the mean: `group` (one prompt at one node of one peer), `task` (a task at a node, over
    all peers), `node`, `peer` (a node of one peer) or `batch`. Rows that could not be judged are excluded from every
    mean and get NaN; a group whose rewards are all equal gets exactly 0.
    """

    scope: Scope = "group"

    def check_origins(self, origins: Mapping[str, Sequence[RowOrigin]]) -> Iterable[str]:
        """Report generators from whose rows nothing is ever learned: their advantages are or cancel to 0."""
        return [f"can never learn: {why}" for why in alike_groups(origins.get("scored", ()), self.scope)]

    def run(self, scored: Scored[R], *, log: Log) -> Credited[R]:
        """Add an `advantage` to the rows.

        Inputs:
            scored: rows with rewards; a NaN reward gives the advantage NaN
        """
        rewards = scored.numpy("reward")
        log_mean(log, "reward", rewards)
        return credit(scored, self.group_advantages(group_codes(scored, self.scope), rewards, log=log))
