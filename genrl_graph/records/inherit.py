"""What the rows of a step have from its inputs: columns found again by key, own rows of an exchange put back.

A select, reward or advantage is stored as ids and what it added, an exchange as the rows of others. The same holds
for one step, whose keys are ids, as for many rounds at once, whose keys are rounds, holders and ids.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame

ORIGIN = ("round", "holder")
"""The columns that the store adds to rows that have none of the name."""

IN_FULL = "_whole"
"""Under the group of an output, the group of rows that could not be made again from the inputs."""

Runs = Sequence[Sequence[int]]
"""Places of the own rows in what an exchange gave: [place there, place in the own offer, number of rows]."""


@dataclass(frozen=True, slots=True)
class InputRows:
    """Rows that an input gave, and the key of each."""

    keys: pa.ChunkedArray
    table: pa.Table


class InheritedColumns:
    """What inputs hold of the rows with these keys, column by column.

    An input that has these very rows in this order comes before all others; else each row is taken from the first
    input that has it.
    """

    def __init__(self, keys: pa.ChunkedArray, inputs: Sequence[InputRows]) -> None:
        self._keys, self._given = keys, inputs
        self._alike = [given.keys.equals(keys) for given in inputs]
        self._places: dict[int, pa.Array] = {}
        self._ends: dict[tuple[int, ...], pa.Array] = {}
        having: dict[str, list[int]] = {}
        for at, given in enumerate(inputs):
            for name in given.table.column_names:
                having.setdefault(name, []).append(at)
        self._having = {name: tuple(places) for name, places in having.items()}

    def names(self) -> list[str]:
        """The columns of the inputs that hold all rows, or of all inputs where none does, in order."""
        whole = [given for given, alike in zip(self._given, self._alike, strict=True) if alike]
        if not whole:
            whole = [given for at, given in enumerate(self._given) if self._found((at,)).null_count == 0]
        return list(dict.fromkeys(name for given in whole or self._given for name in given.table.column_names))

    def has(self, name: str) -> bool:
        """Whether the inputs have this column, of one type, for all rows."""
        having = self._having.get(name, ())
        if any(self._alike[at] for at in having):
            return True
        kinds = {self._given[at].table.schema.field(name).type for at in having}
        return len(kinds) == 1 and self._found(having).null_count == 0

    def column(self, name: str) -> pa.ChunkedArray:
        """The values of a column that the inputs have."""
        having = self._having[name]
        for at in having:
            if self._alike[at]:
                return self._given[at].table.column(name)
        chunks = [chunk for at in having for chunk in self._given[at].table.column(name).chunks]
        values = pa.chunked_array(chunks, self._given[having[0]].table.schema.field(name).type)
        return pa.table({name: values}).take(self._found(having)).column(name)

    def _found(self, having: tuple[int, ...]) -> pa.Array:
        """For each row its place in these inputs laid end to end, null where it is in none of them."""
        if having not in self._ends:
            starts = np.cumsum([0, *(len(self._given[at].keys) for at in having)]).tolist()
            moved = [pc.add(self._place(at), start) for at, start in zip(having, starts[:-1], strict=True)]
            self._ends[having] = pc.coalesce(*moved) if moved else pa.nulls(len(self._keys), pa.int64())
        return self._ends[having]

    def _place(self, at: int) -> pa.Array:
        if at not in self._places:
            found = pc.index_in(self._keys, value_set=self._given[at].keys.combine_chunks())
            self._places[at] = found.combine_chunks().cast(pa.int64())
        return self._places[at]


def with_inherited(
    stored: pa.Table, inherited: InheritedColumns, allowed: Callable[[str], bool] = lambda name: True
) -> dict[str, pa.ChunkedArray]:
    """The stored columns and those of the inputs that are `allowed`.

    What was stored wins, but for the columns of `ORIGIN` that the inputs have: those are the store's.
    """
    own = [name for name in stored.column_names if name not in ORIGIN or allowed(name)]
    columns = {}
    for name in dict.fromkeys([*inherited.names(), *own]):
        if name in own and (name not in ORIGIN or not inherited.has(name)):
            columns[name] = stored.column(name)
        elif allowed(name) and inherited.has(name):
            columns[name] = inherited.column(name)
    return columns


def placed(external: pa.Table, offer: pa.Table, own: Runs) -> pa.Table:
    """Rows of others and of the own offer in one table, with the columns that both have."""
    mine = offer.take(pa.array([row for _, at, count in own for row in range(at, at + count)], pa.int64()))
    names = [name for name in external.column_names if name in mine.column_names]
    if not external.num_rows:
        return mine.select(names)
    places = np.full(external.num_rows + mine.num_rows, -1, dtype=np.int64)
    places[[row for at, _, count in own for row in range(at, at + count)]] = np.arange(mine.num_rows)
    places[places < 0] = mine.num_rows + np.arange(external.num_rows)
    return pa.concat_tables([mine.select(names), external.select(names)]).take(pa.array(places))


def allowed_in(kind: EdgeType) -> Callable[[str], bool]:
    """Whether rows of a type may have a column: those declared, and those of the families of its marks."""
    assert issubclass(kind.base, Frame)
    declared: dict[str, Any] = kind.base.declared(kind.marks)
    families = tuple(mark.prefix[0] for mark in kind.marks if mark.prefix is not None)
    return lambda name: name in declared or name.startswith(families)
