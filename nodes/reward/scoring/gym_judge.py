"""What the worker process of `reward.reasoning_gym` runs; reasoning-gym is imported here, outside any time limit."""

import reasoning_gym

from genrl_graph.nodes.source.data.gym_entries import score_entry

__all__ = ["reasoning_gym", "score_entry"]
