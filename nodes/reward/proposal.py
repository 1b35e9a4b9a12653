"""`reward.proposal`: pay who proposes tasks that are solved about half of the time."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.reward.scoring.rows import Texts, Verdict, judgeable, score_rows
from genrl_graph.nodes.source.proposals import proposed_text
from genrl_graph.nodes.worker.worker import Failure


class ProposalReward(Reward, name="proposal"):
    """Rewards `task` for a proposal that became a task, and `half` times how close to half of the solutions are right.

    That is 1 - |2p - 1| for the share p of right solutions: 1 where half of them are, 0 where none or all are, as in
    asymmetric self-play (arXiv 1703.05407). A solution counts by its term `correct`, or else by its reward, between 0
    and 1. Tasks are those of a source of proposals; proposals that it dropped are paid 0, and one whose solutions could
    not be judged stays unjudged (NaN).
    """

    is_correctness = False

    task: float = Field(default=0.1, description="reward of a proposal that became a task")
    half: float = Field(default=1.0, description="factor on 1 - |2p - 1| for the share p of right solutions")

    def run(self, rollouts: Texts, solved: Scored[Rollouts], *, log: Log, peer: str = "") -> Scored[Texts]:
        """Add `reward`, `reward_task` and `reward_half` to the proposals.

        Inputs:
            rollouts: completions of the proposer
            solved: solutions of the tasks that they propose, with their rewards
        """
        shares = _shares(solved)
        texts = rollouts.values("completion")

        def judge(positions: list[int], until: float) -> dict[int, Verdict]:
            return {at: _paid(shares.get(texts[at])) for at in positions}

        verdicts = judge_by_author(rollouts, judgeable(rollouts), judge, peer=peer, seconds=self.peer_seconds, log=log)
        if means := [float(np.mean(values)) for values in shares.values() if values]:
            log.metric("solved", float(np.mean(means)))
        weights = {"task": self.task, "half": self.half}
        return score_rows(rollouts, verdicts, weights=weights, node=self, log=log, peer=peer)


def _shares(solved: Rollouts) -> dict[str, list[float]]:
    """Return, by the text of a proposal, how right each solution of its task is; without those that are unjudged."""
    column = "reward_correct" if "reward_correct" in solved.table.column_names else "reward"
    shares: dict[str, list[float]] = {}
    for task_id, value in zip(solved.values("task_id"), solved.numpy(column).tolist(), strict=True):
        known = shares.setdefault(proposed_text(task_id.partition("/")[2]), [])
        if np.isfinite(value):
            known.append(min(max(value, 0.0), 1.0))
    return shares


def _paid(shares: list[float] | None) -> Verdict:
    if shares is None:
        return {"task": 0.0, "half": 0.0}
    if not shares:
        return Failure("no solution of the task could be judged")
    return {"task": 1.0, "half": 1.0 - abs(2.0 * float(np.mean(shares)) - 1.0)}
