"""Rebuild the outputs of a step from the columns in the store and from the inputs of the step.

Of a select, reward or advantage the store has ids and new columns; the other columns come from the inputs. Of an
exchange it has the rows of other peers; the own rows come from the own offer, at the positions in the step's facts.
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
from genrl_graph.records.inherit import (
    STORE_COLUMNS,
    InheritedColumns,
    InputRows,
    OwnSpans,
    column_filter,
    merge_own_rows,
    with_inherited,
)


def inherited_columns(ids: pa.ChunkedArray, inputs: Mapping[str, Any]) -> InheritedColumns:
    """Return the columns that the inputs of a step have for the rows with these ids."""
    tables = (frame.table for value in inputs.values() for frame in frames_of(value))
    return InheritedColumns(
        ids, [InputRows(table.column("id"), table) for table in tables if "id" in table.column_names]
    )


def rebuild(kind: EdgeType, stored: pa.Table, inputs: Mapping[str, Any]) -> Frame:
    """Rebuild an output of which `stored` has ids and some columns; the other columns come from the inputs."""
    if "id" not in stored.column_names:
        raise StoreError(f"rows of type {kind} were stored without ids; restore the folder from a copy")
    inherited = inherited_columns(stored.column("id"), inputs)
    return _frame(kind, pa.table(with_inherited(stored, inherited, column_filter(kind))))


def rebuilds_exactly(rows: Frame, stored: pa.Table, inherited: InheritedColumns) -> bool:
    """Return whether `rebuild` turns the stored columns into exactly these rows."""
    columns = with_inherited(stored, inherited, column_filter(rows.edge_type))
    declared, names = type(rows).declared(rows.marks), rows.table.column_names
    if names != [*(name for name in declared if name in columns), *(name for name in columns if name not in declared)]:
        return False
    inherits = [name for name in names if name in STORE_COLUMNS or name not in stored.column_names]
    return all(_equal_columns(columns[name], rows.table.column(name)) for name in inherits)


def full_rows(kind: EdgeType, stored: pa.Table) -> Frame:
    """Return an output that is stored in full."""
    allowed = column_filter(kind)
    return _frame(
        kind, stored.select([name for name in stored.column_names if name not in STORE_COLUMNS or allowed(name)])
    )


def exchange_rows(kind: EdgeType, stored: pa.Table, offer: Frame, own: OwnSpans) -> Frame:
    """Rebuild the output of an exchange from the stored rows of others and the rows of the offer at positions `own`."""
    return _frame(kind, merge_own_rows(full_rows(kind, stored).table, offer.table, own))


def own_spans(rows: Frame, mine: NDArray[np.bool_], offer: Frame) -> list[list[int]] | None:
    """Return the positions of the own rows (mask `mine`) in an exchange's output, and in the offer.

    None where they are not exactly rows of the offer, so that they have to be stored.
    """
    names = rows.table.column_names
    if not set(names) <= set(offer.table.column_names):
        return None
    positions = np.flatnonzero(mine)
    if "id" in names:
        ids = _take(rows.table.select(["id"]), positions).column("id")
        indices = pc.index_in(ids, value_set=offer.table.column("id").combine_chunks())
        if indices.null_count:
            return None
        offered = indices.to_numpy().astype(np.int64)
    elif len(positions) == len(offer):
        offered = np.arange(len(offer))
    else:
        return None
    if not same_rows(_take(rows.table, positions), _take(offer.table.select(names), offered)):
        return None
    ends = np.flatnonzero((np.diff(positions) != 1) | (np.diff(offered) != 1)) + 1
    starts = [0, *ends.tolist()] if len(positions) else []
    counts = np.diff([*starts, len(positions)]).tolist()
    return [[int(positions[at]), int(offered[at]), count] for at, count in zip(starts, counts, strict=True)]


def _take(table: pa.Table, positions: NDArray[np.int64]) -> pa.Table:
    """Return the rows at these positions, without a copy where the positions are consecutive."""
    if len(positions) and (np.diff(positions) == 1).all():
        return table.slice(int(positions[0]), len(positions))
    return table.take(pa.array(positions))


def same_rows(these: pa.Table, those: pa.Table) -> bool:
    """Return whether two tables have the same columns in the same order with the same values; NaN equals NaN."""
    if these.column_names != those.column_names or these.num_rows != those.num_rows:
        return False
    return all(_equal_columns(*columns) for columns in zip(these.columns, those.columns, strict=True))


def type_json(kind: EdgeType) -> list[Any]:
    """Return a type as plain JSON: the name of its class and the sorted names of its marks."""
    return [kind.base.__name__, sorted(mark.name for mark in kind.marks)]


def type_from_json(stored: Sequence[Any], wanted: EdgeType, inputs: Mapping[str, Any]) -> EdgeType:
    """Return the type that `type_json` described, a subclass of `wanted`; raises `StoreError` where there is none."""
    name, marks = stored if len(stored) == 2 and isinstance(stored[1], list) else (stored, [])
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


def _equal_columns(this: pa.ChunkedArray, that: pa.ChunkedArray) -> bool:
    if this.type != that.type:
        return False
    if this.equals(that):
        return True
    these, those = (split(pa.table({"x": column})) for column in (this, that))  # in Arrow, NaN differs from NaN
    return these.keys() == those.keys() and all(
        np.array_equal(values, those[path], equal_nan=values.dtype.kind == "f") for path, values in these.items()
    )
