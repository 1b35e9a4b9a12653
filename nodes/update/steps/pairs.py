"""Preference pairs: rows of a group with a better and a worse reward."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.groups import group_codes

PairRule = Literal["best_worst", "all"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Row positions of the chosen and the rejected row of each pair, and the number of groups without a pair."""

    chosen: list[int]
    rejected: list[int]
    groups_without: int


def preference_pairs(rows: Rollouts, *, rule: PairRule, min_margin: float) -> Pairs:
    """Pair rows of one group and prompt whose rewards differ by at least `min_margin` (and by more than 0).

    `best_worst` gives at most one pair per group, the earlier row among equal rewards; `all` gives every pair. The
    rewards must be finite.
    """
    rewards = rows.numpy("reward")
    chosen, rejected, without = [], [], 0
    for group in _groups(rows):
        pairs = [
            (int(better), int(worse))
            for better, worse in _candidates(group, rewards, rule)
            if rewards[better] > rewards[worse] and rewards[better] - rewards[worse] >= min_margin
        ]
        chosen += [better for better, _ in pairs]
        rejected += [worse for _, worse in pairs]
        without += not pairs
    return Pairs(chosen, rejected, without)


def _groups(rows: Rollouts) -> list[NDArray[np.int64]]:
    """Return row positions by group and prompt: another peer may write any `group_id`."""
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
