"""All rules that a graph must obey, found without torch and all at once, each in one line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from genrl_graph.edges import EdgeType
from genrl_graph.graph import Edge, Graph, Part
from genrl_graph.node import Carry, Exchange, Node, Reward, Update
from genrl_graph.policy import Carried
from genrl_graph.registry import did_you_mean

Path = tuple[str | int, ...]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
RESERVED = frozenset({"steps", "eval", "refusals"})  # groups of the store that belong to no node


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule: the key path in the graph file, and one line that says what is wrong and what to do."""

    path: Path
    text: str
    at_key: bool = False  # the key itself is wrong, not its value

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.text}"


def check(graph: Graph) -> list[Problem]:
    """Every problem of a graph, in the order of the file's parts."""
    from genrl_graph.hazards import find_hazards

    if not graph.nodes:
        return [Problem(("nodes",), "the graph has no nodes")]
    problems = [problem for name in (*graph.carries, *graph.nodes) for problem in check_part(graph, name)]
    cycles = list(_cycles(graph))
    if cycles:
        return problems + cycles
    types = infer(graph)
    for name in graph.nodes:
        problems += _mismatches(graph, graph.nodes[name], types)
    for name in graph.carries:
        problems += check_next(graph, name, types)
    problems += _unused(graph)
    return problems + find_hazards(graph, types)


def check_part(graph: Graph, name: str, *, types: Mapping[str, EdgeType] | None = None) -> list[Problem]:
    """The problems of one part by itself and, where the types of outputs are given, of its incoming edges."""
    part = graph.part(name)
    section = "carry" if name in graph.carries else "nodes"
    problems = list(_check_name(graph, section, name))
    if part.cls is None:
        return problems
    wanted = Carry if section == "carry" else Node
    if not issubclass(part.cls, wanted):
        other = "nodes" if section == "carry" else "carry"
        text = f"{part.type_name!r} belongs under `{other}:`, not under `{section}:`"
        return [*problems, Problem((section, name, "type"), text)]
    if section == "nodes":
        problems += _check_inputs(graph, part)
        if types is not None:
            problems += _mismatches(graph, part, types)
    return problems


def check_next(graph: Graph, name: str, types: Mapping[str, EdgeType] | None = None) -> list[Problem]:
    """Whether a carry's `next` exists and has the type of the carry."""
    part = graph.carries[name]
    if part.next is None or part.cls is None or not issubclass(part.cls, Carry):
        return []
    path = ("carry", name, "next")
    types = infer(graph) if types is None else types
    unknown = _unknown_ref(graph, part.next)
    if unknown:
        return [Problem(path, unknown)]
    given = types.get(part.next)
    if given is not None and not part.cls.edge.accepts(given):
        return [Problem(path, f"wants {part.cls.edge}, but {part.next!r} gives {given}")]
    return []


def infer(graph: Graph) -> dict[str, EdgeType]:
    """The edge type of every output (`node`, `node.field`, carry) that can be known; wrong parts are left out."""
    types: dict[str, EdgeType] = {}
    for part in graph.carries.values():
        if part.cls is not None and issubclass(part.cls, Carry):
            types |= infer_part(part, types)
    for name in inference_order(graph):
        part = graph.nodes[name]
        if part.cls is not None and issubclass(part.cls, Node):
            types |= infer_part(part, types)
    return types


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


def _check_name(graph: Graph, section: str, name: str) -> Iterator[Problem]:
    if not _NAME.match(name):
        yield Problem((section, name), f"{name!r} is no name; use letters, digits and underscores")
    if name in RESERVED:
        yield Problem((section, name), f"{name!r} is a group of the store; choose another name")
    if section == "nodes" and name in graph.carries:
        yield Problem((section, name), f"{name!r} is also the name of a carry; rename one of them")


def _check_inputs(graph: Graph, part: Part) -> Iterator[Problem]:
    assert part.cls is not None and issubclass(part.cls, Node)
    sockets = {socket.name: socket for socket in part.cls.signature.inputs}
    for name, wire in part.inputs.items():
        path: Path = ("nodes", part.name, "inputs", name)
        socket = sockets.get(name)
        if socket is None:
            known = f"; it has {', '.join(sockets) or 'none'}"
            yield Problem(path, f"{part.type_name} has no input {name!r}{did_you_mean(name, sockets) or known}", True)
        elif socket.many == "one" and not isinstance(wire, str):
            yield Problem(path, f"takes one output, not {len(wire)}; write one name")
        elif socket.many == "list" and isinstance(wire, Mapping):
            yield Problem(path, "takes a list of outputs; write [first, second], without names")
        elif socket.many == "dict" and not isinstance(wire, Mapping):
            yield Problem(path, "takes outputs by name; write {name: node}")
    for edge in part.edges():
        unknown = _unknown_ref(graph, edge.ref)
        if unknown:
            yield Problem(edge_path(edge), unknown)
    for socket in sockets.values():
        if not socket.optional and socket.name not in part.inputs:
            yield Problem(
                ("nodes", part.name, "inputs"),
                f"input {socket.name!r} ({socket}) is missing{_givers(graph, socket.pattern.bound, part.name)}",
            )
    if isinstance(part.declared, Node):
        yield from (Problem(("nodes", part.name), text) for text in part.declared.check_inputs(part.inputs))


def edge_path(edge: Edge) -> Path:
    """Where the file writes an edge."""
    path: Path = ("nodes", edge.reader, "inputs", edge.socket)
    return path if edge.key is None else (*path, edge.key)


def _unknown_ref(graph: Graph, ref: str) -> str:
    name, _, field = ref.partition(".")
    known = [*graph.carries, *graph.nodes]
    if name not in known:
        return f"no node or carry named {name!r}{did_you_mean(name, known) or f'; there are {_shorten(known)}'}"
    cls = graph.part(name).cls
    fields = [f for f in cls.signature.outputs if f] if cls is not None and issubclass(cls, Node) else []
    if field and cls is not None and field not in fields:
        gives = f"it gives {', '.join(fields)}" if fields else "it has one output; write its name alone"
        return f"{name!r} has no output {field!r}{did_you_mean(field, fields)}; {gives}"
    if not field and fields:
        return f"{name!r} has several outputs; write one of {', '.join(f'{name}.{f}' for f in fields)}"
    if not field and cls is not None and issubclass(cls, Node) and not cls.signature.outputs:
        return f"{name!r} gives no output to read"
    return ""


def _mismatches(graph: Graph, part: Part, types: Mapping[str, EdgeType]) -> Iterator[Problem]:
    for edge in part.edges():
        socket, given = part.socket(edge.socket), types.get(edge.ref)
        if socket is not None and given is not None and not socket.pattern.bound.accepts(given):
            wanted = socket.pattern.bound
            yield Problem(
                edge_path(edge),
                f"wants {wanted}, but {edge.ref!r} gives {given}{_givers(graph, wanted, part.name, types)}",
            )


def _givers(graph: Graph, wanted: EdgeType, reader: str, types: Mapping[str, EdgeType] | None = None) -> str:
    types = infer(graph) if types is None else types
    names = [ref for ref, given in types.items() if wanted.accepts(given) and ref.partition(".")[0] != reader]
    return f"; parts that give {wanted}: {_shorten(names)}" if names else f"; nothing in the graph gives {wanted}"


def _shorten(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _cycles(graph: Graph) -> Iterator[Problem]:
    import networkx as nx

    links = nx.DiGraph()
    links.add_nodes_from(graph.nodes)
    links.add_edges_from((edge.origin, edge.reader) for edge in graph.edges() if edge.origin in graph.nodes)
    for component in nx.strongly_connected_components(links):
        first = next((name for name in graph.nodes if name in component), "")
        if len(component) > 1 or links.has_edge(first, first):
            trail = [a for a, _ in nx.find_cycle(links.subgraph(component), first)]
            text = f"a cycle: {' -> '.join([*trail, trail[0]])}; only a carry links a round to the next"
            yield Problem(("nodes", first, "inputs"), text)


def _unused(graph: Graph) -> Iterator[Problem]:
    read = {edge.origin for edge in graph.edges()} | {
        (part.next or "").partition(".")[0] for part in graph.carries.values()
    }
    for name, part in graph.nodes.items():
        if part.cls is None or name in read:
            continue
        if issubclass(part.cls, Reward):
            yield Problem(("nodes", name), "this reward is read by nothing; give it to an advantage or remove it")
        elif issubclass(part.cls, Exchange):
            yield Problem(("nodes", name), "nothing reads this exchange; peers would wait for it in vain: remove it")
        elif issubclass(part.cls, Update):
            carries = ", ".join(c for c, p in graph.carries.items() if issubclass(p.cls or object, Carry)) or "a carry"
            text = f"what this updates is neither read nor carried; write `next: {name}` under {carries}"
            yield Problem(("nodes", name), text)


def inference_order(graph: Graph) -> list[str]:
    """Nodes, readers after what they read; nodes on a cycle are left out."""
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
    assert part.cls is not None and issubclass(part.cls, Node)
    return any(socket.pattern.base is variable for socket in part.cls.signature.inputs)


def carried(types: Mapping[str, EdgeType], ref: str) -> bool:
    """Whether an output is a value that an update changes in place."""
    given = types.get(ref)
    return given is not None and issubclass(given.base, Carried) and given.base.mutable
