"""Names of columns that have changed: a folder keeps the names it began with, its readers see the present ones."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa

from genrl_graph.errors import StoreError

RENAMED: Mapping[int, Mapping[str, str]] = MappingProxyType(
    {2: {"finish": "finish_reason", "tokenizer": "tokenizer_fingerprint"}, 3: {}}
)
"""The columns that layouts name otherwise: by layout version, the name in the folder and the present name."""


class ColumnNames:
    """Translates the column names of a folder of one layout version to the present names and back."""

    def __init__(self, layout: int) -> None:
        self._present = RENAMED[layout]
        self._stored = {present: stored for stored, present in self._present.items()}

    def present(self, table: pa.Table) -> pa.Table:
        """Return a table of the folder under the present names of its columns."""
        return _renamed(table, self._present)

    def stored(self, table: pa.Table) -> pa.Table:
        """Return a table under the names that the folder uses."""
        return _renamed(table, self._stored)

    def stored_names(self, names: Sequence[str]) -> list[str]:
        """Return the names that the folder uses for columns."""
        return [self._stored.get(name, name) for name in names]


def _renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    if names.keys().isdisjoint(table.column_names):
        return table
    columns = [names.get(name, name) for name in table.column_names]
    if len(set(columns)) < len(columns):
        both = ", ".join(name for name in columns if columns.count(name) > 1)
        raise StoreError(f"{both}: stands under its former name, too; restore the folder from a copy")
    return table.rename_columns(columns)
