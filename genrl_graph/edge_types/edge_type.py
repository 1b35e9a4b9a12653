"""Edge types: what an output gives and an input wants.

An edge type is a base class (a frame of rows, or a carried value such as a policy) and the marks that nodes
have added to it on the way: a reward adds `Scored`, an advantage `Credited`, an exchange `Peer`.
Marks are written as generic aliases, `Scored[Rollouts]` or `Peer[R]`, so that a node can keep what it is given.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pyarrow as pa

from genrl_graph.errors import NodeError


class EdgeValue:
    """What may travel on an edge: rows (`Frame`) or a carried value (`Carried`)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """Something a node adds to rows: a name, the columns that come with it, and the marks it presupposes.

    `prefix` allows further columns of one type whose names start with it (`reward_format`, `reward_correct`).
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
    """The marks and all that they presuppose."""
    found: set[Mark] = set()
    todo = list(marks)
    while todo:
        mark = todo.pop()
        if mark not in found:
            found.add(mark)
            todo.extend(mark.implies)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class EdgeType:
    """A base class and the marks on it; `Peer[Scored]` is rows of rollouts, scored, from the swarm."""

    base: type
    marks: frozenset[Mark] = frozenset()

    def accepts(self, given: "EdgeType") -> bool:
        """Whether an input of this type can read `given`: the same or a subclass, with at least these marks."""
        return issubclass(given.base, self.base) and self.marks <= given.marks

    def join(self, other: "EdgeType") -> "EdgeType":
        """The narrowest type that accepts both."""
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
    """An edge type as `run` writes it: its base may be a type variable that the inputs bind."""

    base: "type | TypeVar"
    marks: frozenset[Mark]

    @property
    def bound(self) -> EdgeType:
        """The widest edge type that this pattern accepts."""
        if not isinstance(self.base, TypeVar):
            return EdgeType(self.base, self.marks)
        bound = self.base.__bound__
        assert isinstance(bound, type), "read_pattern refuses others"
        return EdgeType(bound, self.marks)

    def filled(self, bindings: Mapping[TypeVar, EdgeType]) -> EdgeType:
        """The output type, given what the inputs bound; an unbound variable stands for its default."""
        if not isinstance(self.base, TypeVar):
            return EdgeType(self.base, self.marks)
        given = bindings.get(self.base)
        if given is None:
            default = getattr(self.base, "__default__", None)
            given = EdgeType(default) if isinstance(default, type) else self.bound
        return EdgeType(given.base, closure(given.marks | self.marks))

    def __str__(self) -> str:
        return str(self.bound if isinstance(self.base, TypeVar) else EdgeType(self.base, self.marks))


Many = Literal["one", "list", "dict"]


@dataclass(frozen=True, slots=True)
class Socket:
    """A named input or output of a node: the type it takes, how many edges, and whether it may stay empty."""

    name: str
    pattern: Pattern
    many: Many = "one"
    optional: bool = False

    def __str__(self) -> str:
        shape = {"one": "{}", "list": "list[{}]", "dict": "dict[str, {}]"}[self.many]
        return shape.format(self.pattern) + (" (optional)" if self.optional else "")


def read_socket(name: str, annotation: Any, *, optional: bool, where: str) -> Socket:
    """The socket that a parameter's annotation declares.

    Raises `NodeError` where the annotation is no edge type, `list[edge]`, `dict[str, edge]`, or one of these or None.
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
    """The base and marks of an annotation such as `Rollouts`, `R` or `Peer[Scored[R]]`."""
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
