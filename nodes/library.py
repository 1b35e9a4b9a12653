"""The library of nodes: importing this module registers every type that ships with the project."""

from genrl_graph.nodes.exchange import gather
from genrl_graph.nodes.policy import fork

__all__ = ["fork", "gather"]
