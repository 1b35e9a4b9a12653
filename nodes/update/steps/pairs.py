"""Which rows of a group are preferred to which: the pairs that preference losses train on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.groups import group_codes

PairRule = Literal["best_worst", "all"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Positions of the preferred and of the other row of each pair, and how many groups have none."""

    chosen: list[int]
    rejected: list[int]
    groups_without: int


def preference_pairs(rows: Rollouts, *, rule: PairRule, min_margin: float) -> Pairs:
    """Pairs of a group, one prompt, whose rewards differ, and by `min_margin` at least.

    best_worst is at most one pair a group, the earlier row where rewards are equal; all is every pair. Rewards are
    finite.
    """
    rewards = rows.numpy("reward")
    chosen, rejected, without = [], [], 0
    for group in _groups(rows):
        found = [
            (int(better), int(worse))
            for better, worse in _candidates(group, rewards, rule)
            if rewards[better] > rewards[worse] and rewards[better] - rewards[worse] >= min_margin
        ]
        chosen += [better for better, _ in found]
        rejected += [worse for _, worse in found]
        without += not found
    return Pairs(chosen, rejected, without)


def _groups(rows: Rollouts) -> list[NDArray[np.int64]]:
    """Positions by group and prompt: nobody vouches for the `group_id` that a peer wrote."""
    members: dict[tuple[int, bytes], list[int]] = {}
    keys = zip(group_codes(rows, "group").tolist(), rows.ragged("prompt_ids"), strict=True)
    for at, (code, prompt) in enumerate(keys):
        members.setdefault((code, prompt.tobytes()), []).append(at)
    return [np.asarray(group, dtype=np.int64) for group in members.values()]


def _candidates(
    group: NDArray[np.int64], rewards: NDArray[np.float64], rule: PairRule
) -> list[tuple[np.int64, np.int64]]:
    if rule == "best_worst":
        return [(group[rewards[group].argmax()], group[rewards[group].argmin()])]
    return [(better, worse) for better in group for worse in group]
