"""`advantage.pool`: rewards of several stages minus one common mean."""

from collections.abc import Iterable, Mapping, Sequence

from genrl_graph.contract.origins import RowOrigin
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R, Scored, credit
from genrl_graph.nodes.advantage.baseline import BaselineAdvantage, log_mean
from genrl_graph.nodes.groups import PooledScope, alike_pools, pooled_codes


class PoolAdvantage(BaselineAdvantage, name="pool"):
    """Reward minus the mean reward of a pool of rows from several nodes, divided by a standard deviation.

    All wired inputs are pooled, such as first and last answers; their rewards must be on one scale. `scope` selects
    the rows of a pool: `task`, `task_and_peer`, `peer` or `batch`. Rows that could not be judged get NaN; a pool whose
    rewards are all equal gets exactly 0.
    """

    scope: PooledScope = "task"

    def check_origins(self, origins: Mapping[str, Sequence[RowOrigin]]) -> Iterable[str]:
        """Report generators from whose rows nothing is ever learned: their advantages are or cancel to 0."""
        return [f"can never learn: {why}" for why in alike_pools(origins.get("scored", ()), self.scope)]

    def run(self, scored: list[Scored[R]], *, log: Log) -> Credited[R]:
        """Concatenate the inputs in order and add an `advantage`; reward terms that an input lacks are dropped.

        Inputs:
            scored: rows with rewards on one scale, pooled over all wired nodes
        """
        kinds: tuple[type[R], ...] = type(scored[0]).__mro__
        common = next(kind for kind in kinds if all(isinstance(rows, kind) for rows in scored))
        rows = common.concat(scored)
        rewards = rows.numpy("reward")
        log_mean(log, "reward", rewards)
        return credit(rows, self.group_advantages(pooled_codes(rows, self.scope), rewards, log=log))
