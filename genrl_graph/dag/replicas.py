"""Problems of a graph that ranks cannot play as a group (`run.replicas`): found before a model is loaded."""

from collections.abc import Iterator

from genrl_graph.contract.node import Node, PolicyCarry
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.problems import Problem, edge_path


def find_unshared(graph: Graph) -> list[Problem]:
    """Return what does not work while several ranks share the policies of a peer; nothing for one rank."""
    return list(_problems(graph, graph.run.replicas)) if graph.run.replicas > 1 else []


def shared_carries(graph: Graph) -> list[str]:
    """Return the names of the carries whose policies the ranks of a group share."""
    carries = graph.carries.values()
    return [
        part.name for part in carries if part.cls is not None and issubclass(part.cls, PolicyCarry) and part.cls.shards
    ]


def _problems(graph: Graph, replicas: int) -> Iterator[Problem]:
    shared = shared_carries(graph)
    if not shared and all(part.cls is not None for part in graph.carries.values()):
        text = f"run.replicas is {replicas}, but no carry has a policy that ranks can share; set it to 1"
        yield Problem(("carry",), text)
    for edge in graph.edges():
        part = graph.nodes[edge.reader]
        if part.cls is None or not issubclass(part.cls, Node) or not part.cls.wants_whole_policy:
            continue
        if (carry := graph.begun_as(edge.ref)) in shared:
            what = f"{part.type_name} needs all of policy {carry!r}, of which each of {replicas} ranks holds a part"
            yield Problem(edge_path(edge), f"{what}; take it out, or set run.replicas to 1")
