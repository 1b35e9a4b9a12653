"""`advantage.turns`: credit the turns of dialogues with the outcome of their episode, or with what they still earn."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genrl_graph.contract.origins import RowOrigin
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, Scored, credit
from genrl_graph.edge_types.sequences import combined_codes
from genrl_graph.edge_types.turns import Turns
from genrl_graph.nodes.advantage.baseline import BaselineAdvantage, Floats, log_mean


class TurnsAdvantage(BaselineAdvantage, name="turns"):
    """The outcome of a seat's episode, or the discounted rewards still to come, minus a baseline over other episodes.

    The outcome is the sum of a seat's rewards in an episode. Turns are no groups by their prompts, since no two
    episodes go the same way. With scope `task` the baseline is over the episodes of one task and seat at a node of a
    peer, with `seat` over all episodes of a seat: that and `scale: group` is the normalisation by agent of Dr. MAS
    (arXiv 2602.08847). Outcomes count once an episode, rewards to come once a turn. A truncated episode counts as what
    it earned; turns of failed or incomplete episodes get NaN.
    """

    credit: Literal["outcome", "return_to_go"] = Field(
        default="outcome",
        description="what a turn is credited with: the outcome of its episode, or the rewards from it to the end",
    )
    gamma: float = Field(default=1.0, ge=0, le=1, description="discount of a turn in the return to go")
    scope: Literal["task", "seat", "batch"] = Field(
        default="task",
        description="episodes with one baseline: of a task and seat, of a seat, or all of a node and peer",
    )
    weight: Literal["turn", "episode"] = Field(
        default="turn",
        description="what counts alike in the loss: every turn, so that long episodes weigh more, or every episode: "
        "advantages are divided by its turns and multiplied by the mean number of turns",
    )

    def check_origins(self, origins: Mapping[str, Sequence[RowOrigin]]) -> Iterable[str]:
        """Report generators that play each task once: the only episode of a task and seat is its own baseline."""
        alone = self.credit == "outcome" and self.scope == "task"
        reasons = [origin.alike("seat") for origin in origins.get("scored", ()) if alone and origin.own]
        return [f"can never learn: {why}, or scope to seat" for why in dict.fromkeys(reasons) if why]

    def run(self, scored: Scored[Turns], *, log: Log) -> Credited[Turns]:
        """Add an `advantage` to the rows.

        Inputs:
            scored: turns with their rewards, in whole episodes
        """
        if not len(scored):
            return credit(scored, np.empty(0))
        codes = scored.trajectory_codes()
        order = np.lexsort((scored.numpy("turn"), codes))
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        rewards = np.where(scored.incomplete(), np.nan, scored.numpy("reward"))
        outcomes: Floats = np.bincount(codes, weights=rewards).astype(np.float64)
        log_mean(log, "reward", outcomes)
        groups = self._groups(scored)
        if self.credit == "outcome":
            advantage = self.group_advantages(groups[order[starts]], outcomes, log=log)[codes]
        else:
            advantage = self.group_advantages(groups, _returns(rewards, order, codes, self.gamma), log=log)
        if self.weight == "episode":
            turns = np.bincount(codes)
            advantage = advantage * (turns.mean() / turns)[codes]
        return credit(scored, advantage)

    def _groups(self, rows: Turns) -> NDArray[np.int64]:
        """Return the group of each row; those of different nodes, peers and sources are never one."""
        names = {"task": ("task_id", "seat"), "seat": ("seat",), "batch": ()}[self.scope]
        codes = combined_codes(rows, *names, "node", "peer")
        sources = [task_id.partition("/")[0] for task_id in rows.values("task_id")]
        source = np.unique(sources, return_inverse=True)[1]
        groups: NDArray[np.int64] = codes * (int(source.max()) + 1) + source
        return groups


def _returns(rewards: Floats, order: NDArray[np.int64], codes: NDArray[np.int64], gamma: float) -> Floats:
    """Return for each row the discounted rewards from it to the end of its trajectory."""
    returns, following = np.zeros(len(rewards)), -1
    for at in reversed(order.tolist()):
        later = returns[following] if following >= 0 and codes[following] == codes[at] else 0.0
        returns[at] = rewards[at] + gamma * later
        following = at
    return returns
