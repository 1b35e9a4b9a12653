"""The graph of a game: its parts, and the Python builder that makes them.

A YAML file (`spec.py`) and the builder give the same `Graph`. A graph may hold parts that are wrong: `check.py`
finds them all. The builder asks it at every line, so in Python a wrong edge fails where it is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from genrl_graph.declared import Declared
from genrl_graph.edges import EdgeType, Socket
from genrl_graph.errors import GraphError
from genrl_graph.node import Carry, Node, Wire
from genrl_graph.run_config import RunConfig


@dataclass(frozen=True, slots=True)
class Part:
    """One node or carry as written. `cls` is None for an unknown type, `declared` None where its params are wrong."""

    name: str
    type_name: str
    cls: type[Declared] | None
    declared: Declared | None
    inputs: Mapping[str, Wire] = field(default_factory=dict)
    next: str | None = None
    written: Mapping[str, Any] | None = None  # params as a file has them, data paths not yet resolved

    @property
    def node(self) -> Node:
        """The node of a part that passed the check."""
        assert isinstance(self.declared, Node)
        return self.declared

    @property
    def carry(self) -> Carry:
        """The carry of a part that passed the check."""
        assert isinstance(self.declared, Carry)
        return self.declared

    def params(self) -> Mapping[str, Any]:
        """The params as written, or those that differ from their defaults."""
        if self.written is not None or self.declared is None:
            return self.written or {}
        return self.declared.params()

    def edges(self) -> "Iterator[Edge]":
        """The incoming edges, in the order written."""
        for socket, wire in self.inputs.items():
            if isinstance(wire, str):
                yield Edge(self.name, socket, None, wire)
            elif isinstance(wire, Mapping):
                yield from (Edge(self.name, socket, key, ref) for key, ref in wire.items())
            else:
                yield from (Edge(self.name, socket, at, ref) for at, ref in enumerate(wire))

    def socket(self, name: str) -> Socket | None:
        """The input socket of this name, or None."""
        if self.cls is None or not issubclass(self.cls, Node):
            return None
        return next((socket for socket in self.cls.signature.inputs if socket.name == name), None)


@dataclass(frozen=True, slots=True)
class Edge:
    """Input `socket` (at `key` of a list or dict) of node `reader` reads the output `ref`."""

    reader: str
    socket: str
    key: int | str | None
    ref: str

    @property
    def origin(self) -> str:
        """The node or carry that gives the value."""
        return self.ref.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Handle:
    """An output of a part; passing it to `Graph.add` is the edge. A field of several outputs is `handle.field`."""

    graph: "Graph"
    ref: str
    type: EdgeType | None

    def __getattr__(self, name: str) -> "Handle":
        if name.startswith("_"):
            raise AttributeError(name)
        return self.graph.output(f"{self.ref}.{name}")


class Graph:
    """A game. Equal graphs have equal parts in the same order, and equal `run` options."""

    def __init__(self, name: str, *, run: RunConfig | None = None) -> None:
        self.name = name
        self.run = run or RunConfig()
        self.carries: dict[str, Part] = {}
        self.nodes: dict[str, Part] = {}
        self._types: dict[str, EdgeType] = {}  # of the parts that the builder has placed

    def carry(self, name: str, carry: Carry) -> Handle:
        """Declare a value that every round starts with; one that `next_round` never names is frozen."""
        self._place(Part(name, carry.type_name, type(carry), carry), self.carries)
        return self.output(name)

    def add(self, name: str, node: Node, **inputs: "Handle | Sequence[Handle] | Mapping[str, Handle] | None") -> Handle:
        """Add a node that reads the given outputs. Raises `GraphError` where the edges do not fit."""
        wires = {socket: self._wire(name, socket, value) for socket, value in inputs.items() if value is not None}
        self._place(Part(name, node.type_name, type(node), node, wires), self.nodes)
        return self.output(name)

    def next_round(self, **values: Handle) -> None:
        """Say what each carry is in the next round."""
        from genrl_graph.check import check_next

        for name, handle in values.items():
            if name not in self.carries:
                raise GraphError(f"next_round: no carry named {name!r}; carries: {', '.join(self.carries) or 'none'}")
            self.carries[name] = replace(self.carries[name], next=self._ref(f"next_round.{name}", handle))
            _raise(check_next(self, name, self._types))

    def output(self, ref: str) -> Handle:
        """The handle of an output, by `node`, `node.field` or carry name."""
        name, _, field = ref.partition(".")
        fields = [known.partition(".")[2] for known in self._types if known.partition(".")[0] == name]
        if field and field not in fields:
            raise GraphError(
                f"{ref}: no such output in graph {self.name!r}; {name!r} gives {', '.join(fields) or 'none'}"
            )
        return Handle(self, ref, self._types.get(ref))

    def part(self, name: str) -> Part:
        """The node or carry of this name."""
        return self.nodes.get(name) or self.carries[name]

    def edges(self) -> Iterator[Edge]:
        """All edges between parts, in the order written."""
        for part in self.nodes.values():
            yield from part.edges()

    def readers(self, name: str) -> list[Edge]:
        """The edges that leave a part."""
        return [edge for edge in self.edges() if edge.origin == name]

    def dump(self) -> str:
        """This graph as YAML; loading it gives an equal graph."""
        from genrl_graph.spec import dump

        return dump(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self._identity() == other._identity()

    __hash__ = None  # type: ignore[assignment]  # a graph is built up

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {len(self.carries)} carries, {len(self.nodes)} nodes>"

    def _identity(self) -> tuple[object, ...]:
        parts = [
            (p.name, p.type_name, p.declared or dict(p.params()), list(p.edges()), p.next)
            for p in (*self.carries.values(), *self.nodes.values())
        ]
        return (self.name, self.run, parts)

    def _place(self, part: Part, parts: dict[str, Part]) -> None:
        from genrl_graph.check import check_part, infer_part

        if part.name in self.nodes or part.name in self.carries:
            raise GraphError(f"{part.name}: graph {self.name!r} already has a part of this name; choose another")
        parts[part.name] = part
        problems = check_part(self, part.name, types=self._types)
        if problems:
            del parts[part.name]
        _raise(problems)
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


def _raise(problems: "Sequence[Any]") -> None:
    if problems:
        raise GraphError("; ".join(str(problem) for problem in problems))
