"""Target of the worker process of `reward.reasoning_gym`; imports reasoning-gym outside the time limit of a call."""

import reasoning_gym

from genrl_graph.nodes.source.data.gym_entries import score_entry

__all__ = ["reasoning_gym", "score_entry"]
