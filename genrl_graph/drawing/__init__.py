"""Pictures of a graph in six formats."""

from genrl_graph.drawing.render import draw

__all__ = ["draw"]
