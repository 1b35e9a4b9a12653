"""Policy hazards: whoever reads a version of a policy runs before the update that replaces it.

An update changes its policy in place, so a version of it has one successor and its readers must come first.
Where the edges allow it the compiler orders them so; where they do not the graph is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from genrl_graph.check import Problem, carried, edge_path
from genrl_graph.edges import EdgeType
from genrl_graph.graph import Edge, Graph, Part
from genrl_graph.node import Update
from genrl_graph.policy import Carried

_FORK = "take a policy.fork of it"


@dataclass(frozen=True, slots=True)
class Order:
    """`before` reads a version that `after` replaces; `edge` is the reading."""

    before: str
    after: str
    edge: Edge


def replaced_inputs(part: Part) -> dict[str, str]:
    """For each output field of an update, the input whose value it replaces.

    A named output replaces the input of its name; a single output the first carried input.
    """
    if part.cls is None or not issubclass(part.cls, Update):
        return {}
    carried_inputs = [s.name for s in part.cls.signature.inputs if issubclass(s.pattern.bound.base, Carried)]
    replaced = {}
    for field, pattern in part.cls.signature.outputs.items():
        if not issubclass(pattern.bound.base, Carried):
            continue
        name = field if field else next(iter(carried_inputs), "")
        if name in carried_inputs:
            replaced[field] = name
    return replaced


def orders(graph: Graph, types: Mapping[str, EdgeType]) -> list[Order]:
    """Which nodes must run before which updates."""
    found = []
    for edges in _mutable_readers(graph, types).values():
        for update in _updaters(graph, edges):
            found += [Order(e.reader, update.reader, e) for e in edges if e.reader != update.reader]
    return found


def find_hazards(graph: Graph, types: Mapping[str, EdgeType]) -> list[Problem]:
    """Updates that clash, values kept by several carries, and readers that cannot come before the update."""
    return [*_clashes(graph, types), *_lost(graph, types), *_late_readers(graph, types)]


def _mutable_readers(graph: Graph, types: Mapping[str, EdgeType]) -> dict[str, list[Edge]]:
    readers: dict[str, list[Edge]] = {}
    for edge in graph.edges():
        if carried(types, edge.ref):
            readers.setdefault(edge.ref, []).append(edge)
    return readers


def _updaters(graph: Graph, edges: list[Edge]) -> list[Edge]:
    return [edge for edge in edges if edge.socket in replaced_inputs(graph.nodes[edge.reader]).values()]


def _clashes(graph: Graph, types: Mapping[str, EdgeType]) -> Iterator[Problem]:
    for ref, edges in _mutable_readers(graph, types).items():
        updaters = _updaters(graph, edges)
        for other in updaters[1:]:
            first = updaters[0].reader
            if other.reader == first:
                continue
            advice = f"chain them (read {first!r}) or {_FORK}"
            yield Problem(
                edge_path(other), f"{other.reader!r} and {first!r} both replace the weights of {ref!r}; {advice}"
            )
        for update in updaters[:1]:
            for edge in edges:
                if edge.reader == update.reader and edge.socket != update.socket:
                    text = (
                        f"reads the weights of {ref!r} that {edge.reader!r} itself replaces; {_FORK} before the update"
                    )
                    yield Problem(edge_path(edge), text)


def _lost(graph: Graph, types: Mapping[str, EdgeType]) -> Iterator[Problem]:
    """A carry keeps a value to the next round: no update may replace it, and no other carry may keep it too."""
    readers = _mutable_readers(graph, types)
    kept: dict[str, str] = {}
    for name, part in graph.carries.items():
        ref = part.next or name
        if not carried(types, ref):
            continue
        for update in _updaters(graph, readers.get(ref, [])):
            if part.next is None:
                text = f"has no `next`, so it is frozen, but {update.reader!r} updates it"
                yield Problem(("carry", name), f"{text}; write `next: {update.reader}`, or let the update {_FORK}")
            else:
                text = f"{ref!r} is replaced by {update.reader!r} before the round ends"
                yield Problem(("carry", name, "next"), f"{text}; write `next: {update.reader}` or {_FORK}")
        if ref in kept:
            text = f"{ref!r} is already the next value of {kept[ref]!r}: an update of one would change both; {_FORK}"
            yield Problem(("carry", name, "next"), text)
        kept.setdefault(ref, name)


def _late_readers(graph: Graph, types: Mapping[str, EdgeType]) -> Iterator[Problem]:
    """Readers that come after the update by the edges; or, in a ring of several, all of them together."""
    import networkx as nx

    links = nx.DiGraph()
    links.add_nodes_from(graph.nodes)
    links.add_edges_from((edge.origin, edge.reader) for edge in graph.edges() if edge.origin in graph.nodes)
    if not nx.is_directed_acyclic_graph(links):
        return
    wanted = orders(graph, types)
    refused = False
    later = {name: nx.descendants(links, name) for name in {order.after for order in wanted}}
    for order in wanted:
        if order.before in later[order.after]:
            refused = True
            text = (
                f"reads the weights of {order.edge.ref!r}, but comes after {order.after!r}, which replaces them; "
                f"read {order.after!r} instead or {_FORK} before the update"
            )
            yield Problem(edge_path(order.edge), text)
    if refused:
        return
    links.add_edges_from((order.before, order.after) for order in wanted)
    for component in nx.strongly_connected_components(links):
        if len(component) > 1:
            first = next(name for name in graph.nodes if name in component)
            trail = [a for a, _ in nx.find_cycle(links.subgraph(component), first)]
            inside = [order for order in wanted if order.before in component and order.after in component]
            text = (
                f"no order lets every reader of a policy come before its update: {' -> '.join([*trail, trail[0]])}; "
                f"let {inside[0].before!r} {_FORK.replace('of it', f'of {inside[0].edge.ref!r}')}"
            )
            yield Problem(edge_path(inside[0].edge), text)
