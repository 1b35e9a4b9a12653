"""Policy hazards: every reader of a policy version must run before the update that replaces it.

An update changes its policy in place, so each version has one successor and its readers must run first.
The compiler orders them so where the edges allow it; otherwise the graph is refused.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from genrl_graph.contract.node import Exchange, Update
from genrl_graph.dag.graph import Edge, Graph, Part
from genrl_graph.dag.infer import carried
from genrl_graph.dag.problems import Path, Problem, edge_path, read_parts
from genrl_graph.edge_types.edge_type import EdgeType

_FORK = "take a policy.fork of it"


@dataclass(frozen=True, slots=True)
class ReadBeforeUpdate:
    """An order constraint: node `before` reads, through `edge`, a version that update `after` replaces."""

    before: str
    after: str
    edge: Edge


def replaced_inputs(part: Part) -> Mapping[str, str]:
    """Return, for each output of an update or average, the input whose value it replaces; empty for other parts."""
    return part.cls.signature.replaced if part.cls is not None and issubclass(part.cls, Update | Exchange) else {}


def orders(graph: Graph, types: Mapping[str, EdgeType]) -> list[ReadBeforeUpdate]:
    """Return the constraints that nodes run before the updates that replace what they read."""
    constraints = []
    for edges in _mutable_readers(graph, types).values():
        updates = list(dict.fromkeys(edge.reader for edge in _updaters(graph, edges)))
        if len(updates) == 1:  # several updates of one version clash: no order helps
            constraints += [
                ReadBeforeUpdate(edge.reader, updates[0], edge) for edge in edges if edge.reader != updates[0]
            ]
    return constraints


def find_hazards(graph: Graph, types: Mapping[str, EdgeType], *, unread: Collection[Path] = ()) -> list[Problem]:
    """Report clashing or unused updates, values that several carries keep, and readers that cannot run in time."""
    return [
        *_clashes(graph, types),
        *_lost_carries(graph, types, unread),
        *_idle_updates(graph, types, unread),
        *_late_readers(graph, types),
    ]


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


def _lost_carries(graph: Graph, types: Mapping[str, EdgeType], unread: Collection[Path]) -> Iterator[Problem]:
    """Report carries whose value an update replaces before the round ends, or that another carry keeps too."""
    readers = _mutable_readers(graph, types)
    keeper: dict[str, str] = {}
    for name, part in graph.carries.items():
        ref = part.next or name
        if not carried(types, ref) or ("carry", name, "next") in unread:
            continue
        path: Path = ("carry", name, "next") if part.next else ("carry", name)
        last = _last_version(graph, readers, ref)
        if last != ref:
            fault = (
                f"{ref!r} is replaced before the round ends" if part.next else "is frozen without `next`, but updated"
            )
            yield Problem(path, f"{fault}; write `next: {last}`, or let the update {_FORK}", at_key=not part.next)
        if ref in keeper:
            fault = f"{ref!r} is kept by {keeper[ref]!r} too, and an update of one would change both"
            yield Problem(path, f"{fault}; {_FORK}", at_key=not part.next)
        keeper.setdefault(ref, name)


def _idle_updates(graph: Graph, types: Mapping[str, EdgeType], unread: Collection[Path]) -> Iterator[Problem]:
    """Report updates whose result is neither read nor carried into the next round."""
    read = set(read_parts(graph))
    readers = _mutable_readers(graph, types)
    reported = {
        _last_version(graph, readers, name).partition(".")[0]
        for name, part in graph.carries.items()
        if part.next is None or ("carry", name, "next") in unread
    }
    for name, part in graph.nodes.items():
        if replaced_inputs(part) and name not in read | reported:
            field = next(iter(replaced_inputs(part)))
            ref = f"{name}.{field}" if field else name
            text = f"what this updates is neither read nor carried; write `next: {ref}` under its carry, or remove it"
            yield Problem(("nodes", name), text, at_key=True)


def _last_version(graph: Graph, readers: Mapping[str, list[Edge]], ref: str) -> str:
    """Return the output that holds a value at the end of the round: that of the last update in its chain."""
    seen = {ref}
    while updaters := _updaters(graph, readers.get(ref, [])):
        replaced = replaced_inputs(graph.nodes[updaters[0].reader])
        field = next(field for field, socket in replaced.items() if socket == updaters[0].socket)
        ref = f"{updaters[0].reader}.{field}" if field else updaters[0].reader
        if ref in seen:
            break  # a cycle, which `check` reports
        seen.add(ref)
    return ref


def _late_readers(graph: Graph, types: Mapping[str, EdgeType]) -> Iterator[Problem]:
    """Report readers that the edges place after their update; if there are none, cycles of such constraints."""
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
