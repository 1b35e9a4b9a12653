"""The nodes of a round that are played ahead (`run.pipeline_depth`), while the round before still trains."""

from collections.abc import Iterator, Mapping

from genrl_graph.contract.node import Exchange, Generator
from genrl_graph.contract.policy import Policy
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.infer import carried
from genrl_graph.dag.problems import Problem, edge_path
from genrl_graph.edge_types.edge_type import EdgeType


def nodes_ahead(graph: Graph) -> frozenset[str]:
    """Return the generators and exchanges of a graph, and what these need of their round; none for a depth of 0."""
    if not graph.run.pipeline_depth:
        return frozenset()
    ahead: set[str] = set()
    wanted = [name for name, part in graph.nodes.items() if part.cls and issubclass(part.cls, Generator | Exchange)]
    while wanted:
        if (name := wanted.pop()) not in ahead:
            ahead.add(name)
            wanted += [edge.origin for edge in graph.nodes[name].edges() if edge.origin in graph.nodes]
    return frozenset(ahead)


def find_not_ahead(graph: Graph, types: Mapping[str, EdgeType]) -> list[Problem]:
    """Return what cannot be played ahead; nothing for a depth of 0."""
    return list(_problems(graph, types)) if graph.run.pipeline_depth else []


def _problems(graph: Graph, types: Mapping[str, EdgeType]) -> Iterator[Problem]:
    option, ahead = f"run.pipeline_depth is {graph.run.pipeline_depth}", nodes_ahead(graph)
    if graph.run.replicas > 1:
        text = (
            f"is {graph.run.pipeline_depth}, but the {graph.run.replicas} ranks of a peer compute in step; set it to 0"
        )
        yield Problem(("run", "pipeline_depth"), text)
    for ref in types:
        node = ref.partition(".")[0]
        if node in ahead and node in graph.nodes and carried(types, ref):
            text = (
                f"{option}, but generators or exchanges read {ref!r} in the same round; set it to 0, or wire the carry"
            )
            yield Problem(("nodes", node), text, at_key=True)
    for edge in graph.edges():
        part = graph.carries.get(edge.ref)
        if part is None or part.next is None or edge.reader not in ahead or not carried(types, edge.ref):
            continue
        if not issubclass(types[edge.ref].base, Policy):
            text = f"{option}, but {edge.ref!r} changes in place while this reads it for the next round; set it to 0"
            yield Problem(edge_path(edge), text)
