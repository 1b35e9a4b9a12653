"""Check all rules of a graph at once, without torch; each problem is one line."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from genrl_graph.contract import registry
from genrl_graph.contract.declared import named_carries
from genrl_graph.contract.node import Carry, Exchange, Fork, Node, PolicyCarry, Reward, Update
from genrl_graph.contract.origins import RowOrigin
from genrl_graph.contract.policy import Policy
from genrl_graph.contract.tool import Tool
from genrl_graph.dag.graph import Graph, Part, Section
from genrl_graph.dag.hazards import find_hazards
from genrl_graph.dag.infer import infer
from genrl_graph.dag.origins import input_origins, row_origins
from genrl_graph.dag.problems import NAME, Path, Problem, edge_path, read_parts
from genrl_graph.dag.replicas import find_unshared
from genrl_graph.dag.roles import check_role, find_unknown_roles
from genrl_graph.edge_types.edge_type import EdgeType, Socket
from genrl_graph.errors import UserError
from genrl_graph.messages import closest, did_you_mean

_GRAPH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
RESERVED = frozenset({"steps", "eval", "refusals", "time", "speed"})  # groups of the store and metrics of no node


def check(graph: Graph, *, unread: Collection[Path] = ()) -> list[Problem]:
    """Return every problem of a graph, in the order of the file's parts.

    `unread` are key paths whose values could not be read and are reported already; anything missing below them is
    not reported again.
    """
    types = infer(graph)
    problems: list[Problem] = []
    if ("graph",) not in unread and not _GRAPH_NAME.match(graph.name):
        text = f"{graph.name!r} cannot name a run folder; use letters, digits and . _ -"
        problems.append(Problem(("graph",), text))
    for name, part in graph.carries.items():
        problems += check_part(graph, "carry", part, types, unread=unread)
        problems += check_next(graph, name, types)
        problems += _check_named_carries(graph, part)
    for part in graph.nodes.values():
        problems += check_part(graph, "nodes", part, types, unread=unread)
    if not graph.nodes and ("nodes",) not in unread:
        problems.append(Problem(("nodes",), "the graph has no nodes; add at least one"))
    problems += _cycles(graph)
    problems += _unused(graph, types)
    problems += _not_evaluable(graph)
    problems += _misread(graph)
    problems += _never_learning(graph)
    problems += find_unknown_roles(graph)
    problems += find_unshared(graph)
    return problems + find_hazards(graph, types, unread=unread)


def check_data(graph: Graph) -> list[Problem]:
    """Return what is missing of the local data that the nodes read, from names and headers alone.

    Not a part of `check`: a graph whose data is elsewhere can still be drawn, compared and looked at.
    """
    nodes = ((name, part.declared) for name, part in graph.nodes.items() if isinstance(part.declared, Node))
    return [Problem(("nodes", name, "params"), line, True) for name, node in nodes for line in node.check_data()]


def check_part(
    graph: Graph, section: Section, part: Part, types: Mapping[str, EdgeType], *, unread: Collection[Path] = ()
) -> list[Problem]:
    """Check one part: its name, its section, its inputs and, where types are known, the types of its edges."""
    problems = list(_check_name(graph, section, part.name))
    if part.cls is not None and not issubclass(part.cls, Carry if section == "carry" else Node):
        other = "`nodes:`" if section == "carry" else "`carry:`"
        other = "`tools` of generate.dialogue" if issubclass(part.cls, Tool) else other
        text = f"{part.type_name!r} belongs under {other}, not under `{section}:`"
        return [*problems, Problem((section, part.name, "type"), text)]
    if section == "nodes":
        problems += _unknown_refs(graph, part)
        if part.cls is not None:
            problems += _check_inputs(graph, part, types, unread)
            problems += _mismatches(graph, part, types)
            problems += check_role(graph, part, types)
    return problems


def check_next(graph: Graph, name: str, types: Mapping[str, EdgeType]) -> list[Problem]:
    """Check that a carry's `next` exists and has the type of the carry."""
    part = graph.carries[name]
    if part.next is None:
        return []
    path = ("carry", name, "next")
    unknown = unknown_output(graph, part.next)
    if unknown:
        return [Problem(path, unknown)]
    actual = types.get(part.next)
    if actual is None or part.cls is None or not issubclass(part.cls, Carry) or part.cls.edge.accepts(actual):
        return []
    return [
        Problem(path, f"wants {part.cls.edge}, but {part.next!r} gives {actual}{_givers(graph, part.cls.edge, types)}")
    ]


def _check_named_carries(graph: Graph, part: Part) -> Iterator[Problem]:
    for param, name in named_carries(part.declared) if part.declared is not None else ():
        if name not in graph.carries:
            hint = did_you_mean(name, graph.carries) or f"; there are {_shorten(list(graph.carries))}"
            yield Problem(("carry", part.name, "params", param), f"no carry named {name!r}{hint}")


def _not_evaluable(graph: Graph) -> Iterator[Problem]:
    """Report nodes that cannot be evaluated, such as a source without held-out tasks."""
    for name, part in graph.nodes.items() if graph.run.mode != "train" else ():
        if isinstance(part.declared, Node):
            try:
                part.node.evaluated(graph.run.evaluation)
            except UserError as error:
                yield Problem(("nodes", name), f"{error} (run.mode is {graph.run.mode})", at_key=True)


def _misread(graph: Graph) -> Iterator[Problem]:
    """Report carries whose params do not fit the nodes that read them, such as a critic that nothing trains."""
    readers: dict[str, list[Node]] = {}
    for part in graph.nodes.values():
        if isinstance(part.declared, Node):
            for name in dict.fromkeys(graph.begun_as(edge.ref) for edge in part.edges()):
                readers.setdefault(name, []).append(part.declared)
    for name, part in graph.carries.items() if graph.run.mode != "evaluate" else ():
        if isinstance(part.declared, Carry):
            for text in part.declared.check_readers(readers.get(name, [])):
                yield Problem(("carry", name), text, at_key=True)


def _never_learning(graph: Graph) -> Iterator[Problem]:
    """Report nodes that can never do their work on the rows of the generators upstream, such as groups of one row."""
    if graph.run.mode == "evaluate":
        return
    origins = row_origins(graph)
    for name, part in graph.nodes.items():
        if isinstance(part.declared, Node):
            inputs = input_origins(part, origins)
            for text in (*part.declared.check_origins(inputs), *_untrainable(graph, part, inputs)):
                yield Problem(("nodes", name), text, at_key=True)


def _untrainable(graph: Graph, part: Part, inputs: Mapping[str, Sequence[RowOrigin]]) -> Iterator[str]:
    """Yield why an update of a policy can learn nothing from the rows that it reads, or not train its policy."""
    node = part.declared
    if not isinstance(node, Update | Fork) or not any(
        issubclass(p.bound.base, Policy) for p in node.signature.outputs.values()
    ):
        return
    for socket, giver in graph.givers(part).items():
        if isinstance(giver, PolicyCarry) and giver.untrainable:
            yield f"input {socket!r} is {giver.type_name}, {giver.untrainable}"
    if not any(issubclass(pattern.bound.base, Policy) for pattern in node.signature.outputs.values()):
        return
    reasons = [origin.untrainable() for rows in inputs.values() for origin in rows if origin.own]
    yield from (f"can never learn: {reason}" for reason in dict.fromkeys(reasons) if reason)


def unknown_output(graph: Graph, ref: str) -> str:
    """Return why `ref` does not name an output, or an empty string if it does."""
    name, _, field = ref.partition(".")
    if field and (ref in graph.nodes or ref in graph.carries):
        return ""  # the part's own name is wrong, which `_check_name` reports
    if name not in graph.nodes and name not in graph.carries:
        known = [*graph.carries, *graph.nodes]
        return f"no node or carry named {name!r}{did_you_mean(name, known) or f'; there are {_shorten(known)}'}"
    cls = graph.part(name).cls
    if cls is None:
        return ""
    outputs = list(cls.signature.outputs) if issubclass(cls, Node) else [""]
    fields = [output for output in outputs if output]
    if field and field not in fields:
        gives = f"it gives {', '.join(fields)}" if fields else f"it has one output; write {name!r} alone"
        return f"{name!r} has no output {field!r}{did_you_mean(field, fields)}; {gives}"
    if not field and fields:
        return f"{name!r} has several outputs; write one of {', '.join(f'{name}.{f}' for f in fields)}"
    return "" if outputs else f"{name!r} gives no output to read"


def _check_name(graph: Graph, section: Section, name: str) -> Iterator[Problem]:
    if not NAME.match(name):
        text = f"{name!r} is no name; use letters, digits and underscores, a letter first"
        yield Problem((section, name), text, at_key=True)
    if name in RESERVED:
        yield Problem((section, name), f"{name!r} is taken by the store or the metrics; rename it", at_key=True)
    if section == "nodes" and name in graph.carries:
        yield Problem((section, name), f"{name!r} is also the name of a carry; rename one of them", at_key=True)


def _unknown_refs(graph: Graph, part: Part) -> Iterator[Problem]:
    for edge in part.edges():
        unknown = unknown_output(graph, edge.ref)
        if unknown:
            yield Problem(edge_path(edge), unknown)


def _check_inputs(
    graph: Graph, part: Part, types: Mapping[str, EdgeType], unread: Collection[Path]
) -> Iterator[Problem]:
    assert part.cls is not None and issubclass(part.cls, Node)
    sockets = {socket.name: socket for socket in part.cls.signature.inputs}
    at: Path = ("nodes", part.name, "inputs")
    unreadable = {path[3] for path in unread if path[:3] == at and path[3:]}
    misspelt = {name: closest(name, sockets) for name in part.inputs if name not in sockets}
    for name in part.inputs:
        text = _misshaped(sockets[name], part) if name in sockets else _unknown_input(part, name, sockets)
        if text:
            yield Problem((*at, name), text, at_key=name in misspelt)
    if at in unread or ("nodes", part.name) in unread:
        return
    present = {*part.inputs, *unreadable, *misspelt.values()}
    missing = [socket for socket in sockets.values() if not socket.optional and socket.name not in present]
    if len(missing) > list(misspelt.values()).count(None):  # else the unknown inputs probably mean these
        for socket in missing:
            givers = _givers(graph, socket.pattern.bound, types, reader=part.name)
            yield Problem(at, f"input {socket.name!r} ({socket}) is missing{givers}", at_key=True)
    if isinstance(part.declared, Node) and not misspelt and not unreadable:
        for text in (*part.declared.check_inputs(part.inputs), *part.declared.check_parts(graph.givers(part))):
            yield Problem(("nodes", part.name), text, at_key=True)


def _unknown_input(part: Part, name: str, sockets: Mapping[str, Socket]) -> str:
    hint = did_you_mean(name, sockets) or f"; it has {', '.join(sockets) or 'none'}"
    return f"{part.type_name} has no input {name!r}{hint}"


def _misshaped(socket: Socket, part: Part) -> str:
    wire = part.inputs[socket.name]
    if socket.many == "one" and not isinstance(wire, str):
        return f"takes one output, not a list of {len(wire)}; write one name"
    if socket.many == "list" and isinstance(wire, Mapping):
        return "takes a list of outputs; write [first, second], without names"
    if socket.many == "dict" and not isinstance(wire, Mapping):
        return "takes outputs by name; write {name: node}"
    if not isinstance(wire, str) and not wire and not socket.optional:
        return "is empty; name at least one output"
    return ""


def _mismatches(graph: Graph, part: Part, types: Mapping[str, EdgeType]) -> Iterator[Problem]:
    for edge in part.edges():
        socket, actual = part.socket(edge.socket), types.get(edge.ref)
        if socket is not None and actual is not None and not socket.pattern.bound.accepts(actual):
            wanted = socket.pattern.bound
            givers = _givers(graph, wanted, types, reader=part.name)
            sibling = _sibling(part, socket.name, actual)
            yield Problem(edge_path(edge), f"wants {wanted}, but {edge.ref!r} gives {actual}{sibling or givers}")


def _sibling(part: Part, socket: str, actual: EdgeType) -> str:
    """Return that a type of the same method takes what is wired here, as update.text_ppo does for update.ppo."""
    assert part.cls is not None
    method = part.type_name.rpartition(".")[2]
    for name, cls in registry.types().items():
        other = name.rpartition(".")[2]
        if cls.kind == part.cls.kind and (other.endswith(f"_{method}") or method.endswith(f"_{other}")):
            sockets = cls.signature.inputs if issubclass(cls, Node) else ()
            if any(each.name == socket and each.pattern.bound.accepts(actual) for each in sockets):
                return f"; {name} takes that"
    return ""


def _givers(graph: Graph, wanted: EdgeType, types: Mapping[str, EdgeType], *, reader: str = "") -> str:
    names = [ref for ref, kind in types.items() if wanted.accepts(kind) and ref.partition(".")[0] != reader]
    if names:
        return f"; nodes that give {wanted}: {_shorten(names)}"
    every = all(part.cls is not None for part in (*graph.carries.values(), *graph.nodes.values()))
    return f"; nothing in the graph gives {wanted}" if every else ""


def _shorten(names: list[str], most: int = 12) -> str:
    return (", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")) or "none"


def _cycles(graph: Graph) -> Iterator[Problem]:
    import networkx as nx

    links = nx.DiGraph()
    links.add_nodes_from(graph.nodes)
    links.add_edges_from((edge.origin, edge.reader) for edge in graph.edges() if edge.origin in graph.nodes)
    place = {name: at for at, name in enumerate(graph.nodes)}
    for component in nx.strongly_connected_components(links):
        first = min(component, key=place.__getitem__)
        if len(component) > 1 or links.has_edge(first, first):
            trail = [a for a, _ in nx.find_cycle(links.subgraph(component), first)]
            closing = next(edge for edge in graph.nodes[trail[0]].edges() if edge.origin == trail[-1])
            text = f"a cycle: {' -> '.join([*trail, trail[0]])}; only a carry links a round to the next"
            yield Problem(edge_path(closing), text)


def _unused(graph: Graph, types: Mapping[str, EdgeType]) -> Iterator[Problem]:
    """Report unread rewards and exchanges, except those that a missing or wrong input probably should read."""
    read, unmet = set(read_parts(graph)), list(_unmet(graph, types))
    for name, part in graph.nodes.items():
        kind = types.get(name)
        if part.cls is None or name in read or any(kind and wanted.accepts(kind) for wanted in unmet):
            continue
        if issubclass(part.cls, Reward):
            text = "this reward is read by nothing; give it to an advantage or remove it"
            yield Problem(("nodes", name), text, at_key=True)
        elif issubclass(part.cls, Exchange):
            text = "nothing reads this exchange; peers would wait for it in vain: remove it"
            yield Problem(("nodes", name), text, at_key=True)


def _unmet(graph: Graph, types: Mapping[str, EdgeType]) -> Iterator[EdgeType]:
    """Yield the type that each missing, misspelt or wrongly typed input wants."""
    for part in graph.nodes.values():
        if part.cls is None or not issubclass(part.cls, Node):
            continue
        for socket in part.cls.signature.inputs:
            wanted = socket.pattern.bound
            kinds = [types.get(edge.ref) for edge in part.edges() if edge.socket == socket.name]
            missing = not socket.optional and socket.name not in part.inputs
            if missing or any(kind is not None and not wanted.accepts(kind) for kind in kinds):
                yield wanted
