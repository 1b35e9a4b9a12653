"""Compare two graphs: their parts, params and schedules."""

from genrl_graph.diff.difference import compare

__all__ = ["compare"]
