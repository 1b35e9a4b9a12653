"""The graph of a game: its parts, and the Python builder.

A YAML file (`graph_file/read.py`) and the builder give the same `Graph`. A graph may hold invalid parts;
`dag/check.py` reports them all. The builder checks each call, so in Python a wrong edge fails where it is written.
"""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from genrl_graph.contract.data_path import without_folders
from genrl_graph.contract.declared import Declared
from genrl_graph.contract.node import Carry, Node, Phase, Wire
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.edge_types.edge_type import EdgeType, Socket
from genrl_graph.errors import GraphError, ParamError
from genrl_graph.messages import did_you_mean, renamed_input, short

NOT_WRITTEN = "not written"
"""The key, in the graph.yaml of a run, of the note in place of params that have no YAML form."""

Section = Literal["carry", "nodes"]
"""The section of a graph file that holds a part."""


@dataclass(frozen=True, slots=True)
class Part:
    """One node or carry as written. `cls` is None for an unknown type, `declared` is None for wrong params."""

    name: str
    type_name: str
    cls: type[Declared] | None
    declared: Declared | None
    inputs: Mapping[str, Wire] = field(default_factory=dict)
    next: str | None = None
    written: Mapping[str, Any] | None = None  # params as the file writes them
    role: str = ""  # peers of this role alone play a node; all do if it has none

    def __post_init__(self) -> None:
        """Make one output of an input that takes a list a list of one: both spellings are one graph."""
        wires = {name: self._listed(name, wire) for name, wire in self.inputs.items()}
        object.__setattr__(self, "inputs", wires)

    def _listed(self, name: str, wire: Wire) -> Wire:
        socket = self.socket(name)
        return (wire,) if isinstance(wire, str) and socket is not None and socket.many == "list" else wire

    @property
    def node(self) -> Node:
        """Return the node of a part that passed the check."""
        assert isinstance(self.declared, Node)
        return self.declared

    @property
    def carry(self) -> Carry:
        """Return the carry of a part that passed the check."""
        assert isinstance(self.declared, Carry)
        return self.declared

    def params(self) -> Mapping[str, Any]:
        """Return the params that differ from their defaults; if some are wrong, all params as written."""
        return self.written or {} if self.declared is None else self.declared.plain_params()

    def recorded_params(self) -> Mapping[str, Any]:
        """Return `params()`, or a note in their place if one has no YAML form."""
        try:
            return self.params()
        except ParamError as error:
            return {NOT_WRITTEN: str(error)}

    def portable_params(self) -> Mapping[str, Any]:
        """Return the recorded params without the folders of data files, so that they are equal on every machine."""
        params = dict(self.recorded_params())
        return params if self.cls is None else without_folders(self.cls.model_fields, params)

    def edges(self) -> "Iterator[Edge]":
        """Yield the incoming edges, in the order written."""
        for socket, wire in self.inputs.items():
            if isinstance(wire, str):
                yield Edge(self.name, socket, None, wire)
            elif isinstance(wire, Mapping):
                yield from (Edge(self.name, socket, key, ref) for key, ref in wire.items())
            else:
                yield from (Edge(self.name, socket, at, ref) for at, ref in enumerate(wire))

    def socket(self, name: str) -> Socket | None:
        """Return the input socket of this name, or None."""
        if self.cls is None or not self.type_name or not issubclass(self.cls, Node):
            return None
        return next((socket for socket in self.cls.signature.inputs if socket.name == name), None)

    def bind(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return this node's inputs by name, looked up in `values`, which maps outputs and carries to values."""
        inputs: dict[str, Any] = {}
        for name, wire in self.inputs.items():
            if isinstance(wire, Mapping):
                inputs[name] = {key: values[ref] for key, ref in wire.items()}
            elif isinstance(wire, str):
                inputs[name] = values[wire]
            else:
                inputs[name] = [values[ref] for ref in wire]
        return inputs


@dataclass(frozen=True, slots=True)
class Edge:
    """Input `socket` (at `key` of a list or dict) of node `reader` reads the output `ref`."""

    reader: str
    socket: str
    key: int | str | None
    ref: str

    @property
    def origin(self) -> str:
        """Return the name of the node or carry that gives the value."""
        return self.ref.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Handle:
    """An output of a part; passing it to `Graph.add` makes an edge. `handle.field` is one of several outputs."""

    graph: "Graph"
    ref: str
    type: EdgeType | None

    def __getattr__(self, name: str) -> "Handle":
        if name.startswith("_"):
            raise AttributeError(name)
        return self.graph.output(f"{self.ref}.{name}")


class Graph:
    """A game. Graphs are equal if they have equal parts in the same order and equal `run` options."""

    def __init__(self, name: str, *, run: RunConfig | None = None) -> None:
        self.name = name
        self.run = run or RunConfig()
        self.carries: dict[str, Part] = {}
        self.nodes: dict[str, Part] = {}
        self._types: dict[str, EdgeType] = {}  # of the parts that the builder has placed

    def carry(self, name: str, carry: Carry, /) -> Handle:
        """Declare a value that every round starts with; it is frozen unless `next_round` names it."""
        _refuse_class(f"carry.{name}", carry, Carry)
        self._place("carry", Part(name, carry.type_name, type(carry), carry))
        return self.output(name)

    def add(
        self,
        name: str,
        node: Node,
        role: str = "",
        /,
        **inputs: "Handle | Sequence[Handle] | Mapping[str, Handle] | None",
    ) -> Handle:
        """Add a node that reads the given outputs, played by peers of `role`, or by all.

        Raises `GraphError` where the edges do not fit.
        """
        _refuse_class(f"nodes.{name}", node, Node)
        for old in type(node).renamed_inputs.keys() & inputs.keys():
            new = type(node).renamed_inputs[old]
            if new in inputs:
                raise GraphError(f"nodes.{name}.{old}: is the old name of {new!r}, which is given too; remove one")
            warnings.warn(f"nodes.{name}.{old}: {renamed_input(old, new)}", FutureWarning, stacklevel=2)
        named = {type(node).renamed_inputs.get(socket, socket): value for socket, value in inputs.items()}
        wires = {socket: self._wire(name, socket, value) for socket, value in named.items() if value is not None}
        self._place("nodes", Part(name, node.type_name, type(node), node, wires, role=role))
        return self.output(name)

    def next_round(self, /, **values: Handle) -> None:
        """Set the output that each carry takes as its value in the next round."""
        from genrl_graph.dag.check import check_next

        for name, handle in values.items():
            if name not in self.carries:
                hint = did_you_mean(name, self.carries) or f"; carries: {', '.join(self.carries) or 'none'}"
                raise GraphError(f"next_round: no carry named {name!r}{hint}")
            before = self.carries[name]
            self.carries[name] = replace(before, next=self._ref(f"next_round.{name}", handle))
            problems = check_next(self, name, self._types)
            if problems:
                self.carries[name] = before
            _raise(problems)

    def output(self, ref: str) -> Handle:
        """Return the handle of an output, by `node`, `node.field` or carry name."""
        from genrl_graph.dag.check import unknown_output

        name, _, field = ref.partition(".")
        unknown = unknown_output(self, ref) if field or not (name in self.nodes or name in self.carries) else ""
        if unknown:
            raise GraphError(f"graph {self.name!r}: {unknown}")
        return Handle(self, ref, self._types.get(ref))

    def settle(self) -> None:
        """Infer the types of all outputs; call it before building on parts that were added unchecked."""
        from genrl_graph.dag.infer import infer

        self._types = infer(self)

    def part(self, name: str) -> Part:
        """Return the node or carry of this name."""
        return self.nodes.get(name) or self.carries[name]

    def played_in(self, phase: Phase) -> "Graph":
        """Return this graph without the nodes that take no part in a phase; no other node reads them."""
        graph = Graph(self.name, run=self.run)
        graph.carries = dict(self.carries)
        graph.nodes = {name: part for name, part in self.nodes.items() if _plays_in(part, phase)}
        return graph

    def roles(self) -> list[str]:
        """Return the roles that nodes have, in the order of the file."""
        return list(dict.fromkeys(part.role for part in self.nodes.values() if part.role))

    def role_of(self, name: str) -> str:
        """Return the role that alone has the values of a part, "" if every peer has some: a carry is its trainer's."""
        if name in self.carries:
            name = (self.carries[name].next or name).partition(".")[0]
        return self.nodes[name].role if name in self.nodes else ""

    def played_by(self, roles: Collection[str]) -> "Graph":
        """Return the part of this graph that a peer of these roles plays.

        It has their nodes, those of no role, and the carries that they read; what only other roles make is missing.
        """
        graph = Graph(self.name, run=self.run)
        graph.nodes = {name: part for name, part in self.nodes.items() if not part.role or part.role in roles}
        readers = {name: [edge.reader for edge in self.readers(name)] for name in self.carries}
        graph.carries = {
            name: part
            for name, part in self.carries.items()
            if not readers[name] or any(reader in graph.nodes for reader in readers[name])
        }
        return graph

    def edges(self) -> Iterator[Edge]:
        """Yield all edges between parts, in the order written."""
        for part in self.nodes.values():
            yield from part.edges()

    def givers(self, part: Part) -> dict[str, Declared]:
        """Return the declared part that each single-edge input of a part reads, where it is known and valid.

        Behind a carried value that updates or forks passed on is the carry that it began as.
        """
        refs = {socket: self.begun_as(wire) for socket, wire in part.inputs.items() if isinstance(wire, str)}
        known = {socket: self.part(name).declared for socket, name in refs.items() if self.has(name)}
        return {socket: declared for socket, declared in known.items() if declared is not None}

    def begun_as(self, ref: str) -> str:
        """Return the name of the carry whose value an output passes on, or else that of the part that makes it."""
        seen = set[str]()
        while ref not in seen:
            seen.add(ref)
            name, _, field = ref.partition(".")
            cls = self.nodes[name].cls if name in self.nodes else None
            replaced = cls.signature.replaced if cls is not None and issubclass(cls, Node) else {}
            wire = self.nodes[name].inputs.get(replaced[field]) if field in replaced else None
            if not isinstance(wire, str):
                return name
            ref = wire
        return ref.partition(".")[0]

    def has(self, name: str) -> bool:
        """Return whether there is a node or carry of this name."""
        return name in self.nodes or name in self.carries

    def readers(self, name: str) -> list[Edge]:
        """Return the edges that leave a part."""
        return [edge for edge in self.edges() if edge.origin == name]

    def check(self) -> list[str]:
        """Return every problem of this graph and of the local data that it names, one line each, as `check` prints."""
        from genrl_graph.dag.check import check, check_data

        return [str(problem) for problem in (*check(self), *check_data(self))]

    def plan(self) -> str:
        """Return the schedule of a round as text, as `plan` prints it; raise `GraphError` for a broken graph."""
        from genrl_graph.dag.plan import plan_of

        return plan_of(self)

    def draw(
        self,
        out: Path | str,
        *,
        params: bool = False,
        title: bool = True,
        legend: bool = True,
        transparent: bool = False,
    ) -> None:
        """Write a picture whose format the ending of `out` names: .svg, .png, .pdf, .html, .dot, .mmd or .txt.

        What is wrong with a broken graph is drawn in red. Raises `ParamError` for another ending.
        """
        from genrl_graph.drawing.picture import Look
        from genrl_graph.drawing.render import draw_file

        look = Look(title=title, legend=legend, transparent=transparent)
        draw_file(self, Path(out), params=params, look=look)

    def dump(self) -> str:
        """Return this graph as YAML that loads to an equal graph; raise `ParamError` if a param has no YAML form."""
        from genrl_graph.graph_file.dump import dump

        return dump(self)

    def record(self) -> str:
        """Return this graph as YAML for the run folder, with a note in place of params without a YAML form."""
        from genrl_graph.graph_file.dump import dump

        return dump(self, params=Part.recorded_params)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self._identity() == other._identity()

    __hash__ = None  # type: ignore[assignment]  # a graph is built up

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {len(self.carries)} carries, {len(self.nodes)} nodes>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Return the picture as SVG and text for a notebook; of a broken graph, what is wrong is in red."""
        from genrl_graph.drawing.render import picture_of
        from genrl_graph.drawing.svg import svg
        from genrl_graph.drawing.text import text

        drawn = picture_of(self)
        return {"image/svg+xml": svg(drawn), "text/plain": text(drawn)}

    def _repr_svg_(self) -> str:
        """Return the picture for viewers that only ask for SVG."""
        return self._repr_mimebundle_()["image/svg+xml"]

    def _identity(self) -> tuple[object, ...]:
        parts = [
            (p.name, p.type_name, p.declared or dict(p.params()), list(p.edges()), p.next, p.role)
            for p in (*self.carries.values(), *self.nodes.values())
        ]
        return (self.name, self.run, parts)

    def _place(self, section: Section, part: Part) -> None:
        from genrl_graph.dag.check import check_part
        from genrl_graph.dag.infer import infer_part

        where = f"{section}.{part.name}"
        if not part.type_name:
            raise GraphError(f"{where}: class {type(part.declared).__name__} is no type; declare it with name=")
        if part.name in self.nodes or part.name in self.carries:
            raise GraphError(f"{where}: graph {self.name!r} already has a part of this name; choose another")
        _raise(check_part(self, section, part, self._types))
        (self.carries if section == "carry" else self.nodes)[part.name] = part
        self._types |= infer_part(part, self._types)

    def _wire(self, name: str, socket: str, value: object) -> Wire:
        where = f"nodes.{name}.{socket}"
        if isinstance(value, Mapping):
            return {key: self._ref(where, item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(self._ref(where, item) for item in value)
        return self._ref(where, value)

    def _ref(self, where: str, value: object) -> str:
        if not isinstance(value, Handle):
            raise GraphError(f"{where}: pass the handle that `add` or `carry` returned, not {value!r}")
        if value.graph is not self:
            raise GraphError(f"{where}: the handle of {value.ref!r} belongs to graph {value.graph.name!r}")
        return value.ref


def _plays_in(part: Part, phase: Phase) -> bool:
    return part.cls is None or not issubclass(part.cls, Node) or phase in part.cls.phases


def _refuse_class(where: str, value: object, wanted: type[Declared]) -> None:
    """Raise `GraphError` for a class, or any other value, in place of an instance of a node or carry."""
    if isinstance(value, type) and issubclass(value, Declared):
        raise GraphError(f"{where}: {value.__name__} is a class; make an instance of it: {value.__name__}(...)")
    if not isinstance(value, Declared):
        raise GraphError(f"{where}: wants {'a node' if wanted is Node else 'a carry'}, got {short(value)}")


def _raise(problems: "Sequence[Any]") -> None:
    if problems:
        raise GraphError("\n".join(str(problem) for problem in problems))
