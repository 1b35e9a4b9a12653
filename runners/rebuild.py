"""The outputs of a step, made again from what the store keeps of them and from the inputs that the step had.

A select, reward or advantage is stored as ids and what it added; everything else of a row is what the inputs hold of
it. An exchange is stored as the rows of others; the own ones come from the own offer, at the places in the facts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.columns import split
from genrl_graph.edges import MARKS, EdgeType
from genrl_graph.errors import StoreError
from genrl_graph.frames import Frame
from genrl_graph.runners.outputs import frames_of

ORIGIN = ("round", "holder")
"""Columns that the store adds to every group that has none of that name."""

WHOLE = "_whole"
"""Under the group of an output that cannot be made again from the inputs, the group of its rows in full."""

Runs = list[list[int]]
"""Places of the own rows in what an exchange gave: [place there, place in the own offer, number of rows]."""


class Inherited:
    """What the inputs of a step hold of the rows with these ids, column by column."""

    def __init__(self, ids: pa.ChunkedArray, inputs: Mapping[str, Any]) -> None:
        self._ids = ids
        self._given = [
            frame for value in inputs.values() for frame in frames_of(value) if "id" in frame.table.column_names
        ]
        self._names = [frozenset(frame.table.column_names) for frame in self._given]
        self._alike = [frame.table.column("id").equals(ids) for frame in self._given]
        self._places: dict[tuple[int, ...], pa.Array] = {}

    def names(self) -> list[str]:
        """The columns of the inputs that hold all rows, or of all inputs where none does, in order."""
        whole = [frame for frame, alike in zip(self._given, self._alike, strict=True) if alike]
        if not whole:
            whole = [frame for at, frame in enumerate(self._given) if self._found((at,)).null_count == 0]
        return list(dict.fromkeys(name for frame in whole or self._given for name in frame.table.column_names))

    def has(self, name: str) -> bool:
        """Whether the inputs have this column, of one type, for all rows."""
        having = self._having(name)
        if any(self._alike[at] for at in having):
            return True
        kinds = {self._given[at].table.schema.field(name).type for at in having}
        return len(kinds) == 1 and self._found(having).null_count == 0

    def column(self, name: str) -> pa.ChunkedArray:
        """The values of a column that the inputs have, of each row from the first input that has it."""
        having = self._having(name)
        for at in having:
            if self._alike[at]:
                return self._given[at].table.column(name)
        chunks = [chunk for at in having for chunk in self._given[at].table.column(name).chunks]
        values = pa.chunked_array(chunks, self._given[having[0]].table.schema.field(name).type)
        return pa.table({name: values}).take(self._found(having)).column(name)

    def _having(self, name: str) -> tuple[int, ...]:
        return tuple(at for at, names in enumerate(self._names) if name in names)

    def _found(self, having: tuple[int, ...]) -> pa.Array:
        """For each row its place in these inputs laid end to end, null where it is in none of them."""
        if having not in self._places:
            known = [value for at in having for value in self._given[at].table.column("id").to_pylist()]
            first: dict[str, int] = {}
            for at, value in enumerate(known):
                first.setdefault(value, at)
            self._places[having] = pa.array([first.get(value) for value in self._ids.to_pylist()], pa.int64())
        return self._places[having]


def rebuild(kind: EdgeType, stored: pa.Table, inputs: Mapping[str, Any]) -> Frame:
    """The output of which `stored` has ids and some columns; the others are those of the inputs."""
    return _frame(kind, pa.table(_columns(kind, stored, Inherited(stored.column("id"), inputs))))


def gives(rows: Frame, stored: pa.Table, inherited: Inherited) -> bool:
    """Whether `rebuild` makes these very rows of what is stored."""
    columns, declared = _columns(rows.edge_type, stored, inherited), type(rows).declared(rows.marks)
    names = [*(name for name in declared if name in columns), *(name for name in columns if name not in declared)]
    return names == rows.table.column_names and same_rows(pa.table(columns).select(names), rows.table)


def _columns(kind: EdgeType, stored: pa.Table, inherited: Inherited) -> dict[str, pa.ChunkedArray]:
    own, allowed = _own_names(kind, stored), _allowed(kind)
    return {
        name: stored.column(name) if name in own else inherited.column(name)
        for name in dict.fromkeys([*inherited.names(), *own])
        if name in own or (allowed(name) and inherited.has(name))
    }


def whole_rows(kind: EdgeType, stored: pa.Table) -> Frame:
    """The output that was stored in full."""
    return _frame(kind, stored.select(_own_names(kind, stored)))


def exchanged_rows(kind: EdgeType, stored: pa.Table, offer: Frame, own: Runs) -> Frame:
    """What an exchange gave, of which `stored` has the rows of others and `own` says where those of the offer stand."""
    external = whole_rows(kind, stored)
    mine = offer.table.take([at + row for _, at, rows in own for row in range(rows)])
    if not len(external) or not mine.num_rows:
        return external if not mine.num_rows else _frame(kind, mine.select(external.table.column_names))
    own_rows = _frame(kind, mine.select(external.table.column_names))
    places = np.full(len(external) + len(own_rows), -1, dtype=np.int64)
    places[[at + row for at, _, rows in own for row in range(rows)]] = len(external) + np.arange(len(own_rows))
    places[places < 0] = np.arange(len(external))
    return _frame(kind, pa.concat_tables([external.table, own_rows.table]).take(pa.array(places)))


def own_places(rows: Frame, mine: np.ndarray[Any, np.dtype[np.bool_]], offer: Frame) -> Runs | None:
    """Where the rows of `mine` stand and which of the offer they are; None where they are not just those of it."""
    if not set(rows.table.column_names) <= set(offer.table.column_names):
        return None
    there = np.flatnonzero(mine)
    if "id" in offer.table.column_names:
        found = pc.index_in(rows.table.column("id").take(there), value_set=offer.table.column("id").combine_chunks())
        if found.null_count:
            return None
        here = found.to_numpy().astype(np.int64)
    elif len(there) == len(offer):
        here = np.arange(len(offer))
    else:
        return None
    if not same_rows(rows.table.take(there), offer.table.take(here).select(rows.table.column_names)):
        return None
    runs: Runs = []
    for place, origin in zip(there.tolist(), here.tolist(), strict=True):
        if runs and [place, origin] == [runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]]:
            runs[-1][2] += 1
        else:
            runs.append([place, origin, 1])
    return runs


def same_rows(these: pa.Table, those: pa.Table) -> bool:
    """Whether two tables hold the same columns in the same order, and in them the same values; NaN is NaN."""
    if these.column_names != those.column_names or these.num_rows != those.num_rows:
        return False
    return all(_same(*columns) for columns in zip(these.columns, those.columns, strict=True))


def described(kind: EdgeType) -> list[Any]:
    """A type as plain JSON: the name of its class and those of its marks."""
    return [kind.base.__name__, sorted(mark.name for mark in kind.marks)]


def described_type(found: Sequence[Any], wanted: EdgeType, inputs: Mapping[str, Any]) -> EdgeType:
    """The type that `described` wrote, one that fits `wanted`; raises `StoreError` where there is none."""
    name, marks = found
    known = dict(MARKS)
    for kind in (wanted, *(frame.edge_type for value in inputs.values() for frame in frames_of(value))):
        known |= {mark.name: mark for mark in kind.marks}
    bases = [base for base in _subclasses(wanted.base) if base.__name__ == name]
    if not bases or any(mark not in known for mark in marks):
        raise StoreError(f"rows of type {name} with marks {marks} were stored, but no such type is declared now")
    return EdgeType(bases[-1], frozenset(known[mark] for mark in marks))


def _subclasses(base: type) -> list[type]:
    below: list[type] = type.__subclasses__(base)
    return [base, *(kind for inner in below for kind in _subclasses(inner))]


def _frame(kind: EdgeType, table: pa.Table) -> Frame:
    assert issubclass(kind.base, Frame)
    return kind.base(table, marks=kind.marks)


def _own_names(kind: EdgeType, stored: pa.Table) -> list[str]:
    """The stored columns without those that the store added."""
    allowed = _allowed(kind)
    return [name for name in stored.column_names if name not in ORIGIN or allowed(name)]


def _allowed(kind: EdgeType) -> Callable[[str], bool]:
    """Whether rows of a type may have a column."""
    assert issubclass(kind.base, Frame)
    declared = kind.base.declared(kind.marks)
    families = tuple(mark.prefix[0] for mark in kind.marks if mark.prefix is not None)
    return lambda name: name in declared or name.startswith(families)


def _same(this: pa.ChunkedArray, that: pa.ChunkedArray) -> bool:
    if this.type != that.type:
        return False
    if this.equals(that):
        return True
    these, those = (split(pa.table({"x": column})) for column in (this, that))  # Arrow holds NaN for unequal
    return these.keys() == those.keys() and all(
        np.array_equal(values, those[path], equal_nan=values.dtype.kind == "f") for path, values in these.items()
    )
