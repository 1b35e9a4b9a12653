"""The edge type of every output of a graph, inferred from the nodes and what they read."""

from collections.abc import Mapping
from typing import TypeVar

from genrl_graph.contract.node import Carry, Node
from genrl_graph.contract.policy import Carried
from genrl_graph.dag.graph import Graph, Part
from genrl_graph.edge_types.edge_type import EdgeType


def infer(graph: Graph) -> dict[str, EdgeType]:
    """The edge type of every output (`node`, `node.field`, carry) that can be known, in the order of the graph.

    Parts that are wrong are left out.
    """
    types: dict[str, EdgeType] = {}
    for part in graph.carries.values():
        if part.cls is not None and issubclass(part.cls, Carry):
            types |= infer_part(part, types)
    for name in inference_order(graph):
        part = graph.nodes[name]
        if part.cls is not None and issubclass(part.cls, Node):
            types |= infer_part(part, types)
    place = {name: at for at, name in enumerate((*graph.carries, *graph.nodes))}
    return dict(sorted(types.items(), key=lambda item: place.get(item[0], place.get(item[0].partition(".")[0], 0))))


def infer_part(part: Part, types: Mapping[str, EdgeType]) -> dict[str, EdgeType]:
    """The edge types of one part's outputs, given those of the parts that it reads."""
    if part.cls is None:
        return {}
    if issubclass(part.cls, Carry):
        return {part.name: part.cls.edge}
    assert issubclass(part.cls, Node)
    bindings = _bindings(part, types)
    found = {}
    for field, pattern in part.cls.signature.outputs.items():
        if isinstance(pattern.base, TypeVar) and pattern.base not in bindings and _binds(part, pattern.base):
            continue  # its input is unknown or wrong, which is reported there
        found[f"{part.name}.{field}" if field else part.name] = pattern.filled(bindings)
    return found


def inference_order(graph: Graph) -> list[str]:
    """Nodes, readers after what they read; nodes on a cycle, and what reads them, are left out."""
    waiting = {name: {e.origin for e in part.edges() if e.origin in graph.nodes} for name, part in graph.nodes.items()}
    followers: dict[str, list[str]] = {}
    for name, origins in waiting.items():
        for origin in origins:
            followers.setdefault(origin, []).append(name)
    ready = [name for name, origins in waiting.items() if not origins]
    order: list[str] = []
    while ready:
        name = ready.pop()
        order.append(name)
        for follower in followers.get(name, []):
            waiting[follower].discard(name)
            if not waiting[follower]:
                ready.append(follower)
    return order


def carried(types: Mapping[str, EdgeType], ref: str) -> bool:
    """Whether an output is a value that an update changes in place."""
    given = types.get(ref)
    return given is not None and issubclass(given.base, Carried) and given.base.mutable


def _bindings(part: Part, types: Mapping[str, EdgeType]) -> dict[TypeVar, EdgeType]:
    found: dict[TypeVar, EdgeType] = {}
    for edge in part.edges():
        socket, given = part.socket(edge.socket), types.get(edge.ref)
        if socket is None or given is None or not isinstance(socket.pattern.base, TypeVar):
            continue
        if socket.pattern.bound.accepts(given):
            variable = socket.pattern.base
            found[variable] = found[variable].join(given) if variable in found else given
    return found


def _binds(part: Part, variable: TypeVar) -> bool:
    """Whether an input that is wired, or has to be, decides what the variable stands for."""
    assert part.cls is not None and issubclass(part.cls, Node)
    sockets = part.cls.signature.inputs
    return any(s.pattern.base is variable and (s.name in part.inputs or not s.optional) for s in sockets)
