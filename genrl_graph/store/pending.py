"""The records of a journal that the arrays do not hold yet, read as the journal grows."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pyarrow as pa

from genrl_graph.errors import StoreError
from genrl_graph.store.group_names import STEPS, check_distinct
from genrl_graph.store.journal import JournalEntry, entries, entries_after, segment_path, segments
from genrl_graph.store.renamed import ColumnNames
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.strict_json import RESTORE

if TYPE_CHECKING:
    from genrl_graph.store.arrays import RolloutArrays

JournalFiles = tuple[tuple[int, int, int, int], ...]
"""By segment of the journal: its first record, its size, the time of its last change, and its inode."""


def archived_records(counts: dict[str, int]) -> int:
    """Return how many records of the run the arrays hold: the journal position from which records count."""
    return counts.get(STEPS, 0)


def journal_files(journal: RunPath) -> JournalFiles:
    """Return the state of the files of a journal; a commit changes it."""
    states = ((first, segment_path(journal, first).status()) for first in segments(journal))
    return tuple((first, status.st_size, status.st_mtime_ns, status.st_ino) for first, status in states)


def pending_entries(journal: RunPath, arrays: "RolloutArrays") -> list[JournalEntry]:
    """Return the records of a journal that the arrays do not hold yet, each of which can be appended to them.

    Raises `StoreError` where names clash, or where the rows of a group have other columns than earlier ones.
    """
    records = PendingRecords(journal, arrays)
    records.read()
    return records.entries


class PendingRecords:
    """The records of a journal that the arrays do not hold yet; each is decoded and checked once.

    `arrays.counts` must not change meanwhile.
    """

    def __init__(self, journal: RunPath, arrays: "RolloutArrays") -> None:
        self.entries: list[JournalEntry] = []
        self._journal, self._arrays = journal, arrays
        self._names = ColumnNames(arrays.layout)
        self._schemas: dict[str, pa.Schema] = {}  # of groups with rows
        self._columns: dict[str, list[str]] = {}  # of all groups

    def read(self) -> None:
        """Read all of them; raises `StoreError` where names clash, or rows have other columns than earlier ones."""
        self._add(entries(self._journal, since=archived_records(self._arrays.counts)))

    def follow(self, before: JournalFiles, now: JournalFiles) -> bool:
        """Add what the last segment gained; returns False where that is not all that has changed: read anew then."""
        same = [file[0] for file in before] == [file[0] for file in now] and before[:-1] == now[:-1]
        if not (same and self.entries and before and before[-1][3] == now[-1][3] and before[-1][1] <= now[-1][1]):
            return False
        try:
            self._add(entries_after(self._journal, now[-1][0], self.entries[-1]))
        except StoreError:  # another run may have taken the folder; whatever is wrong is told when all is read
            return False
        return True

    def _add(self, later: Iterable[JournalEntry]) -> None:
        named = False
        for entry in later:
            if not self.entries:
                published = {group: self._arrays.schema(group) for group in self._arrays.counts}
                self._schemas = {group: schema for group, schema in published.items() if self._arrays.counts[group]}
                self._columns = {group: schema.names for group, schema in published.items()}
            named |= self._check(entry)
            self.entries.append(entry)
        if named:
            check_distinct(self._columns)

    def _check(self, entry: JournalEntry) -> bool:
        """Raise `StoreError` where an entry does not fit the earlier ones; returns whether it brings new columns."""
        named = False
        for group, table in entry.record.tables.items():
            where = f"{self._journal}: record {entry.position}: {group}"
            check_origin_columns(table.schema, where)
            self._names.present(table)  # raises where a column stands under its former and its present name
            known = self._schemas.get(group, table.schema)
            if table.schema != known:
                raise StoreError(f"{where}: has other columns than earlier rows of the group; {RESTORE}")
            if self._columns.get(group) != (columns := table.schema.names):
                self._columns[group], named = columns, True
            if table.num_rows:
                self._schemas[group] = table.schema
        return named


def check_origin_columns(schema: pa.Schema, where: str) -> None:
    """Raise `StoreError` where a table has no whole numbers as `round`, or no text as `holder`."""
    for name, fits in (("round", pa.types.is_integer), ("holder", pa.types.is_string)):
        if name not in schema.names or not fits(schema.field(name).type):
            kind = schema.field(name).type if name in schema.names else "missing"
            raise StoreError(f"{where}.{name}: is {kind}; `round` is a whole number and `holder` is text in all rows")
