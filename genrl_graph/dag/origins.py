"""Follow the rows of outputs back to the generators that sampled them."""

from collections.abc import Mapping
from dataclasses import replace

from genrl_graph.contract.node import Exchange, Generator, Node, PolicyCarry
from genrl_graph.contract.origins import RowOrigin
from genrl_graph.dag.graph import Graph, Part
from genrl_graph.dag.infer import inference_order
from genrl_graph.edge_types.frame import Frame

Origins = Mapping[str, tuple[RowOrigin, ...]]
"""The origins of rows, by output (`node` or `node.field`)."""


def row_origins(graph: Graph) -> Origins:
    """Return the origins of every output of rows; those behind unknown nodes or wrong params are missing."""
    origins: dict[str, tuple[RowOrigin, ...]] = {}
    for name in inference_order(graph):
        part = graph.nodes[name]
        if isinstance(part.declared, Generator):
            read = dict.fromkeys(each.name for rows in input_origins(part, origins).values() for each in rows)
            origin = RowOrigin(name, part.declared, policy=_policy_of(graph, part), quotes=tuple(read))
            origins |= {f"{name}.{field}" if field else name: (origin,) for field in part.declared.signature.outputs}
        elif isinstance(part.declared, Node):
            for field in part.declared.signature.outputs:
                origins[f"{name}.{field}" if field else name] = _output_origins(part, part.declared, field, origins)
    return origins


def _policy_of(graph: Graph, part: Part) -> PolicyCarry | None:
    """Return the carry that a generator reads as its input `policy`, None if it reads an update or nothing."""
    wire = part.inputs.get("policy")
    carry = graph.carries.get(wire) if isinstance(wire, str) else None
    return carry.declared if carry is not None and isinstance(carry.declared, PolicyCarry) else None


def input_origins(part: Part, origins: Origins) -> dict[str, list[RowOrigin]]:
    """Return the origins of the rows that each input reads, each once."""
    inputs: dict[str, dict[RowOrigin, None]] = {}
    for edge in part.edges():
        inputs.setdefault(edge.socket, {}).update(dict.fromkeys(origins.get(edge.ref, ())))
    return {socket: list(found) for socket, found in inputs.items()}


def _output_origins(part: Part, node: Node, field: str, origins: Origins) -> tuple[RowOrigin, ...]:
    passed_on, inputs = _sockets_passed_on(node, field), input_origins(part, origins)
    found = dict.fromkeys(origin for socket in passed_on for origin in inputs.get(socket, ()))
    if isinstance(node, Exchange):
        return tuple(replace(origin, from_peers=True, own=origin.own and node.include_self) for origin in found)
    return tuple(found)


def _sockets_passed_on(node: Node, field: str) -> list[str]:
    """Return the inputs whose rows an output holds.

    These are the inputs that share its type variable, or else the first input of its type: a reward of
    `rollouts: Rollouts, answers: Rollouts` returns the rows of its first input.
    """
    output = node.signature.outputs[field]
    if not issubclass(output.bound.base, Frame):
        return []
    shared = [socket.name for socket in node.signature.inputs if socket.pattern.base is output.base]
    return shared[:1] if isinstance(output.base, type) else shared
