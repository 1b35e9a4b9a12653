"""What two graphs differ in: parts, params, schedules."""

from genrl_graph.diff.difference import compare

__all__ = ["compare"]
