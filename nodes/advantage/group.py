"""`advantage.group`: rewards against the mean of their group."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genrl_graph.frames import Credited, R, Scored, credit
from genrl_graph.node import Advantage
from genrl_graph.nodes.groups import Scope, group_codes
from genrl_graph.resources import Log

Floats = NDArray[np.float64]

STD_EPSILON = 1e-4  # as in TRL


class GroupAdvantage(Advantage, name="group"):
    """Reward minus the mean reward of the group, over a standard deviation.

    `scale` is the deviation (sample, plus 1e-4) of the group (GRPO, arXiv 2402.03300), of all rows (batch, arXiv
    2508.08221), or none (Dr. GRPO, arXiv 2503.20783). `leave_one_out` takes the mean of the others (RLOO, arXiv
    2402.14740). `scope` is whose mean: of the group (one prompt at one node of one peer), of a task at a node over
    all peers, of a node, of a peer's node, or of the batch. A reward that is NaN or infinite counts in no mean
    and gets NaN; a group without variance, or of one row, gets exactly 0.
    """

    scale: Literal["group", "batch", "none"] = "group"
    leave_one_out: bool = False
    scope: Scope = "group"

    def run(self, scored: Scored[R], *, log: Log) -> Credited[R]:
        """The rows with an `advantage`."""
        rewards = scored.numpy("reward")
        judged = np.isfinite(rewards)
        advantage = np.full(len(rewards), np.nan)
        codes = np.unique(group_codes(scored, self.scope)[judged], return_inverse=True)[1]
        varied = _varied(rewards[judged], codes)
        advantage[judged] = self._advantages(rewards[judged], codes, varied)
        log.metric("groups", len(varied))
        log.metric("groups_with_variance", varied.sum())
        if len(varied):
            log.metric("zero_variance", 1.0 - varied.mean())
            log.metric("reward", rewards[judged].mean())
        return credit(scored, advantage)

    def _advantages(self, rewards: Floats, codes: NDArray[np.intp], varied: NDArray[np.bool_]) -> Floats:
        count = np.bincount(codes)
        others = np.maximum(count - 1, 1)
        centred = rewards - (np.bincount(codes, weights=rewards) / count)[codes]
        advantage = centred * (count / others)[codes] if self.leave_one_out else centred
        if self.scale == "group":
            deviation = np.sqrt(np.bincount(codes, weights=centred**2) / others)
            advantage = advantage / (deviation[codes] + STD_EPSILON)
        elif self.scale == "batch" and len(rewards) > 1:
            advantage = advantage / (rewards.std(ddof=1) + STD_EPSILON)
        result: Floats = np.where(varied[codes], advantage, 0.0)  # a mean of equal numbers may differ from them
        return result


def _varied(rewards: Floats, codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """For each group whether its rewards differ."""
    groups = int(codes.max()) + 1 if len(codes) else 0
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, codes, rewards)
    np.maximum.at(high, codes, rewards)
    return high > low
