"""Problems of a graph: one broken rule each, with its key path in the graph file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from genrl_graph.dag.graph import Edge, Graph
from genrl_graph.messages import closest, one_line

Path = tuple[str | int, ...]
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
"""Names of parts and roles."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule: the key path in the graph file, and one line that says what is wrong and what to do."""

    path: Path
    text: str
    at_key: bool = False  # the key itself is wrong, or something below it is missing

    @property
    def where(self) -> str:
        """Return the key path as messages write it, without `inputs`: `nodes.final.critiques` for an input."""
        hidden = self.path[:1] == ("nodes",) and self.path[2:3] == ("inputs",) and len(self.path) > 3
        path = (*self.path[:2], *self.path[3:]) if hidden else self.path
        return ".".join(map(str, path)) or "graph"

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.text}")


def edge_path(edge: Edge) -> Path:
    """Return the key path of an edge in the graph file."""
    path: Path = ("nodes", edge.reader, "inputs", edge.socket)
    return path if edge.key is None else (*path, edge.key)


def read_parts(graph: Graph) -> Iterator[str]:
    """Yield the name of every part that an edge or `next` reads; for a misspelt name, the closest known one."""
    known = dict.fromkeys([*graph.carries, *graph.nodes])
    refs = [edge.ref for edge in graph.edges()] + [part.next for part in graph.carries.values() if part.next]
    for ref in refs:
        origin = ref.partition(".")[0]
        yield ref if ref in known else origin if origin in known else closest(origin, known) or origin
