"""Edge types of all outputs of a graph, inferred from the nodes and what they read."""

from collections.abc import Mapping
from typing import TypeVar

from genrl_graph.contract.node import Carry, Node
from genrl_graph.contract.policy import Carried
from genrl_graph.dag.graph import Graph, Part
from genrl_graph.edge_types.edge_type import EdgeType


def infer(graph: Graph) -> dict[str, EdgeType]:
    """Return the edge type of every output (`node`, `node.field`, carry), in the order of the graph.

    Outputs whose type cannot be inferred are left out.
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
    """Return the edge types of one part's outputs, given those of the parts that it reads."""
    if part.cls is None:
        return {}
    if issubclass(part.cls, Carry):
        return {part.name: part.cls.edge}
    assert issubclass(part.cls, Node)
    bindings = _bindings(part, types)
    outputs = {}
    for field, pattern in part.cls.signature.outputs.items():
        if isinstance(pattern.base, TypeVar) and pattern.base not in bindings and _binds(part, pattern.base):
            continue  # its input is unknown or wrong, which is reported there
        outputs[f"{part.name}.{field}" if field else part.name] = pattern.filled(bindings)
    return outputs


def inference_order(graph: Graph) -> list[str]:
    """Return node names in topological order; nodes on or downstream of a cycle are left out."""
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
    """Return whether an output is a value that an update changes in place."""
    kind = types.get(ref)
    return kind is not None and issubclass(kind.base, Carried) and kind.base.mutable


def _bindings(part: Part, types: Mapping[str, EdgeType]) -> dict[TypeVar, EdgeType]:
    bindings: dict[TypeVar, EdgeType] = {}
    for edge in part.edges():
        socket, kind = part.socket(edge.socket), types.get(edge.ref)
        if socket is None or kind is None or not isinstance(socket.pattern.base, TypeVar):
            continue
        if socket.pattern.bound.accepts(kind):
            variable = socket.pattern.base
            bindings[variable] = bindings[variable].join(kind) if variable in bindings else kind
    return bindings


def _binds(part: Part, variable: TypeVar) -> bool:
    """Return whether a wired or required input determines the type variable."""
    assert part.cls is not None and issubclass(part.cls, Node)
    sockets = part.cls.signature.inputs
    return any(s.pattern.base is variable and (s.name in part.inputs or not s.optional) for s in sockets)
