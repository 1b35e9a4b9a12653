"""The outputs of a step, made again from what the store keeps of them and from the inputs that the step had.

A select, reward or advantage is stored as ids and what it added; everything else of a row is what the inputs hold of
it. An exchange is stored as the rows of others; the own ones come from the own offer, at the places in the facts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrl_graph.arrow.flat import split
from genrl_graph.edge_types.edge_type import MARKS, EdgeType
from genrl_graph.edge_types.frame import Frame, frames_of
from genrl_graph.errors import StoreError
from genrl_graph.records.inherit import ORIGIN, InheritedColumns, InputRows, Runs, allowed_in, placed, with_inherited


def inherited_by(ids: pa.ChunkedArray, inputs: Mapping[str, Any]) -> InheritedColumns:
    """What the inputs of a step hold of the rows with these ids."""
    tables = (frame.table for value in inputs.values() for frame in frames_of(value))
    return InheritedColumns(
        ids, [InputRows(table.column("id"), table) for table in tables if "id" in table.column_names]
    )


def rebuild(kind: EdgeType, stored: pa.Table, inputs: Mapping[str, Any]) -> Frame:
    """The output of which `stored` has ids and some columns; the others are those of the inputs."""
    inherited = inherited_by(stored.column("id"), inputs)
    return _frame(kind, pa.table(with_inherited(stored, inherited, allowed_in(kind))))


def gives(rows: Frame, stored: pa.Table, inherited: InheritedColumns) -> bool:
    """Whether `rebuild` makes these very rows of what is stored."""
    columns = with_inherited(stored, inherited, allowed_in(rows.edge_type))
    declared, names = type(rows).declared(rows.marks), rows.table.column_names
    if names != [*(name for name in declared if name in columns), *(name for name in columns if name not in declared)]:
        return False
    inherits = [name for name in names if name in ORIGIN or name not in stored.column_names]
    return all(_same(columns[name], rows.table.column(name)) for name in inherits)


def whole_rows(kind: EdgeType, stored: pa.Table) -> Frame:
    """The output that was stored in full."""
    allowed = allowed_in(kind)
    return _frame(kind, stored.select([name for name in stored.column_names if name not in ORIGIN or allowed(name)]))


def exchanged_rows(kind: EdgeType, stored: pa.Table, offer: Frame, own: Runs) -> Frame:
    """What an exchange gave, of which `stored` has the rows of others and `own` says where those of the offer stand."""
    return _frame(kind, placed(whole_rows(kind, stored).table, offer.table, own))


def own_places(rows: Frame, mine: NDArray[np.bool_], offer: Frame) -> list[list[int]] | None:
    """Where the rows of `mine` stand and which of the offer they are; None where they are not just those of it."""
    names = rows.table.column_names
    if not set(names) <= set(offer.table.column_names):
        return None
    there = np.flatnonzero(mine)
    if "id" in names:
        ids = _picked(rows.table.select(["id"]), there).column("id")
        found = pc.index_in(ids, value_set=offer.table.column("id").combine_chunks())
        if found.null_count:
            return None
        here = found.to_numpy().astype(np.int64)
    elif len(there) == len(offer):
        here = np.arange(len(offer))
    else:
        return None
    if not same_rows(_picked(rows.table, there), _picked(offer.table.select(names), here)):
        return None
    ends = np.flatnonzero((np.diff(there) != 1) | (np.diff(here) != 1)) + 1
    starts = [0, *ends.tolist()] if len(there) else []
    counts = np.diff([*starts, len(there)]).tolist()
    return [[int(there[at]), int(here[at]), count] for at, count in zip(starts, counts, strict=True)]


def _picked(table: pa.Table, places: NDArray[np.int64]) -> pa.Table:
    """The rows at these places, without a copy where they stand together."""
    if len(places) and (np.diff(places) == 1).all():
        return table.slice(int(places[0]), len(places))
    return table.take(pa.array(places))


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


def _same(this: pa.ChunkedArray, that: pa.ChunkedArray) -> bool:
    if this.type != that.type:
        return False
    if this.equals(that):
        return True
    these, those = (split(pa.table({"x": column})) for column in (this, that))  # Arrow holds NaN for unequal
    return these.keys() == those.keys() and all(
        np.array_equal(values, those[path], equal_nan=values.dtype.kind == "f") for path, values in these.items()
    )
