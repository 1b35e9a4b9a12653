"""Rebuild columns that a step inherited from its inputs, and the own rows that an exchange kept.

Of a select, reward or advantage the store has ids and new columns; of an exchange it has the rows of other peers. The
rest is looked up in the inputs by key: by id for one step, by round, holder and id for many rounds at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import StoreError

STORE_COLUMNS = ("round", "holder")
"""Columns that the store adds to rows that have no columns of these names."""

IN_FULL = "_whole"
"""Group, below that of an output, of rows stored in full because the inputs do not suffice to rebuild them."""

OwnSpans = Sequence[Sequence[int]]
"""Positions of a peer's own rows in an exchange: [position in its output, position in the offer, number of rows]."""


@dataclass(frozen=True, slots=True)
class InputRows:
    """The rows of an input, and the key of each row."""

    keys: pa.ChunkedArray
    table: pa.Table


class InheritedColumns:
    """The columns that the inputs of a step have for the rows with the given keys.

    An input with exactly these keys in this order comes first; otherwise each row is read from the first input that
    has its key.
    """

    def __init__(self, keys: pa.ChunkedArray, inputs: Sequence[InputRows]) -> None:
        self._keys, self._inputs = keys, inputs
        self._same_rows = [rows.keys.equals(keys) for rows in inputs]
        self._indices: dict[int, pa.Array] = {}
        self._positions: dict[tuple[int, ...], pa.Array] = {}
        candidates: dict[str, list[int]] = {}
        for at, rows in enumerate(inputs):
            for name in rows.table.column_names:
                candidates.setdefault(name, []).append(at)
        self._inputs_with = {name: tuple(numbers) for name, numbers in candidates.items()}

    def names(self) -> list[str]:
        """List the columns of the inputs that have all rows, or of all inputs where none has, in order."""
        complete = [rows for rows, same in zip(self._inputs, self._same_rows, strict=True) if same]
        if not complete:
            complete = [rows for at, rows in enumerate(self._inputs) if self._positions_in((at,)).null_count == 0]
        return list(dict.fromkeys(name for rows in complete or self._inputs for name in rows.table.column_names))

    def has(self, name: str) -> bool:
        """Return whether the inputs have this column for all rows, with one type."""
        candidates = self._inputs_with.get(name, ())
        if any(self._same_rows[at] for at in candidates):
            return True
        kinds = {self._inputs[at].table.schema.field(name).type for at in candidates}
        return len(kinds) == 1 and self._positions_in(candidates).null_count == 0

    def column(self, name: str) -> pa.ChunkedArray:
        """Return the values of a column for which `has` is true."""
        candidates = self._inputs_with[name]
        for at in candidates:
            if self._same_rows[at]:
                return self._inputs[at].table.column(name)
        chunks = [chunk for at in candidates for chunk in self._inputs[at].table.column(name).chunks]
        values = pa.chunked_array(chunks, self._inputs[candidates[0]].table.schema.field(name).type)
        return pa.table({name: values}).take(self._positions_in(candidates)).column(name)

    def _positions_in(self, candidates: tuple[int, ...]) -> pa.Array:
        """Return the position of each row in the concatenation of these inputs; null where no input has it."""
        if candidates not in self._positions:
            starts = np.cumsum([0, *(len(self._inputs[at].keys) for at in candidates)]).tolist()
            shifted = [pc.add(self._index_in(at), start) for at, start in zip(candidates, starts[:-1], strict=True)]
            self._positions[candidates] = pc.coalesce(*shifted) if shifted else pa.nulls(len(self._keys), pa.int64())
        return self._positions[candidates]

    def _index_in(self, at: int) -> pa.Array:
        """Return the position of each row in one input; null where the input does not have it."""
        if at not in self._indices:
            indices = pc.index_in(self._keys, value_set=self._inputs[at].keys.combine_chunks())
            self._indices[at] = indices.combine_chunks().cast(pa.int64())
        return self._indices[at]


def with_inherited(
    stored: pa.Table, inherited: InheritedColumns, allowed: Callable[[str], bool] = lambda name: True
) -> dict[str, pa.ChunkedArray]:
    """Combine the stored columns with the inherited ones that are `allowed`.

    A stored column wins over an inherited one, except for `STORE_COLUMNS`: where the inputs have them, the stored ones
    were added by the store.
    """
    own = [name for name in stored.column_names if name not in STORE_COLUMNS or allowed(name)]
    columns = {}
    for name in dict.fromkeys([*inherited.names(), *own]):
        if name in own and (name not in STORE_COLUMNS or not inherited.has(name)):
            columns[name] = stored.column(name)
        elif allowed(name) and inherited.has(name):
            columns[name] = inherited.column(name)
    return columns


def merge_own_rows(external: pa.Table, offer: pa.Table, own: OwnSpans) -> pa.Table:
    """Rebuild the output of an exchange from the rows of others and the own offer, with the columns that both have."""
    _check_spans(own, offer.num_rows, external.num_rows)
    mine = offer.take(pa.array([row for _, at, count in own for row in range(at, at + count)], pa.int64()))
    names = [name for name in external.column_names if name in mine.column_names]
    if not external.num_rows:
        return mine.select(names)
    places = np.full(external.num_rows + mine.num_rows, -1, dtype=np.int64)
    places[[row for at, _, count in own for row in range(at, at + count)]] = np.arange(mine.num_rows)
    places[places < 0] = mine.num_rows + np.arange(external.num_rows)
    return pa.concat_tables([mine.select(names), external.select(names)]).take(pa.array(places))


def _check_spans(own: OwnSpans, offered: int, external: int) -> None:
    """Raise `StoreError` for positions of own rows that are not in the offer, or leave gaps in the output."""
    total = external + sum(count for _, _, count in own)
    end = 0
    for position, at, count in own:
        if position < end or position + count > total or at + count > offered:
            spans = f"rows {at} to {at + count} of an offer of {offered} are rows {position} to {position + count}"
            raise StoreError(f"own rows of an exchange: {spans} of {total}; restore the folder from a copy")
        end = position + count


def column_filter(kind: EdgeType) -> Callable[[str], bool]:
    """Return a test for column names that rows of a type may have: declared, local, or with a prefix of its marks."""
    assert issubclass(kind.base, Frame)
    declared: dict[str, Any] = kind.base.declared(kind.marks)
    base, marks = kind.base, kind.marks
    return lambda name: name in declared or base.extra_column(name, marks) is not None
