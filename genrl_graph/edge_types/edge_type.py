"""Edge types: the types of outputs, and the types that inputs accept.

An edge type is a base class (a frame of rows, or a carried value such as a policy) and the marks that upstream nodes
have added: a reward adds `Scored`, an advantage `Credited`, an exchange `Peer`. Marks are written as generic aliases,
`Scored[Rollouts]` or `Peer[R]`; with a type variable a node keeps the base and marks of its input.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pyarrow as pa

from genrl_graph.errors import NodeError


class EdgeValue:
    """Base of values on edges: rows (`Frame`) or carried values (`Carried`)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A named addition of a node to rows: the columns that it declares, and the marks that it implies.

    `prefix` allows any further columns of one type whose names start with it (`reward_format`, `reward_correct`).
    """

    name: str
    columns: Mapping[str, pa.DataType] = field(default_factory=dict, hash=False, compare=False)
    implies: tuple["Mark", ...] = ()
    prefix: tuple[str, pa.DataType] | None = field(default=None, hash=False, compare=False)


SCORED = Mark("Scored", {"reward": pa.float64()}, prefix=("reward_", pa.float64()))
CREDITED = Mark("Credited", {"advantage": pa.float64()}, implies=(SCORED,))
PEER = Mark("Peer")
MARKS = {mark.name: mark for mark in (SCORED, CREDITED, PEER)}


def closure(marks: Iterable[Mark]) -> frozenset[Mark]:
    """Return the marks together with all marks that they imply."""
    closed: set[Mark] = set()
    todo = list(marks)
    while todo:
        mark = todo.pop()
        if mark not in closed:
            closed.add(mark)
            todo.extend(mark.implies)
    return frozenset(closed)


@dataclass(frozen=True, slots=True)
class EdgeType:
    """A base class and the marks on it; `Peer[Scored]` are rollouts with rewards, from other peers too."""

    base: type
    marks: frozenset[Mark] = frozenset()

    def accepts(self, other: "EdgeType") -> bool:
        """Return whether an input of this type can read `other`: the same base or a subclass, and all these marks."""
        return issubclass(other.base, self.base) and self.marks <= other.marks

    def join(self, other: "EdgeType") -> "EdgeType":
        """Return the narrowest type that accepts both."""
        base = next(b for b in self.base.__mro__ if issubclass(other.base, b))
        return EdgeType(base, self.marks & other.marks)

    def __str__(self) -> str:
        implied = {inner for mark in self.marks for inner in mark.implies}
        outer = sorted(mark.name for mark in self.marks - implied - {PEER})
        name = self.base.__name__
        for mark in outer:
            name = mark if name == "Rollouts" else f"{mark}[{name}]"
        if PEER in self.marks:
            name = "PeerRollouts" if name == "Rollouts" else f"Peer[{name}]"
        return name


@dataclass(frozen=True, slots=True)
class Pattern:
    """An edge type in the signature of `run`; its base may be a type variable that the inputs bind."""

    base: "type | TypeVar"
    marks: frozenset[Mark]

    @property
    def bound(self) -> EdgeType:
        """Return the widest edge type that this pattern accepts."""
        if not isinstance(self.base, TypeVar):
            return EdgeType(self.base, self.marks)
        bound = self.base.__bound__
        assert isinstance(bound, type), "read_pattern refuses others"
        return EdgeType(bound, self.marks)

    def filled(self, bindings: Mapping[TypeVar, EdgeType]) -> EdgeType:
        """Return the output type for the types that the inputs bound; an unbound variable takes its default."""
        if not isinstance(self.base, TypeVar):
            return EdgeType(self.base, self.marks)
        binding = bindings.get(self.base)
        if binding is None:
            default = getattr(self.base, "__default__", None)
            binding = EdgeType(default) if isinstance(default, type) else self.bound
        return EdgeType(binding.base, closure(binding.marks | self.marks))

    def __str__(self) -> str:
        return str(self.bound if isinstance(self.base, TypeVar) else EdgeType(self.base, self.marks))


Many = Literal["one", "list", "dict"]


@dataclass(frozen=True, slots=True)
class Socket:
    """A named input of a node: its type, how many edges it takes, whether it may stay unwired, and what it is for."""

    name: str
    pattern: Pattern
    many: Many = "one"
    optional: bool = False
    meaning: str = field(default="", compare=False)

    def __str__(self) -> str:
        shape = {"one": "{}", "list": "list[{}]", "dict": "dict[str, {}]"}[self.many]
        return shape.format(self.pattern) + (" (optional)" if self.optional else "")


def read_socket(name: str, annotation: Any, *, optional: bool, where: str) -> Socket:
    """Read the socket that the annotation of a parameter declares.

    Raises `NodeError` unless the annotation is an edge type, `list[edge]`, `dict[str, edge]`, or one of these or None.
    """
    where = f"{where}.{name}"
    if get_origin(annotation) in (Union, UnionType):
        inner = [part for part in get_args(annotation) if part is not NoneType]
        if len(inner) != 1:
            raise NodeError(f"{where}: {_written(annotation)} is a choice of types; declare one edge type")
        annotation = inner[0]
    many: Many = "one"
    if get_origin(annotation) in (list, Sequence):
        many, annotation = "list", get_args(annotation)[0]
    elif get_origin(annotation) in (dict, Mapping):
        key, value = get_args(annotation)
        if key is not str:
            raise NodeError(f"{where}: {_written(annotation)} is not keyed by names; write dict[str, ...]")
        many, annotation = "dict", value
    return Socket(name, read_pattern(annotation, where=where), many, optional)


def read_pattern(annotation: Any, *, where: str) -> Pattern:
    """Read the base and marks of an annotation such as `Rollouts`, `R` or `Peer[Scored[R]]`.

    Raises `NodeError` if it is not an edge type.
    """
    marks: list[Mark] = []
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        marks = [extra for extra in extras if isinstance(extra, Mark)]
    if isinstance(annotation, TypeVar):
        bound = annotation.__bound__
        if not (isinstance(bound, type) and issubclass(bound, EdgeValue)):
            raise NodeError(f"{where}: type variable {annotation} has no edge type as its bound; write bound=Frame")
    elif not (isinstance(annotation, type) and issubclass(annotation, EdgeValue)):
        what = f"{_written(annotation)} is no edge type"
        raise NodeError(f"{where}: {what}; use a subclass of Frame or Carried, or a mark of one such as Scored[...]")
    return Pattern(annotation, closure(marks))


def _written(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
