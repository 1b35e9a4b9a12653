"""The store of a run: commits go to the journal, blocks of them move to the arrays, readers see both as one.

A commit is one append to the journal. A block of records moves to `rollouts.zarr` in three steps, and a crash may hit
between any two of them: its rows are written after the published ones; the new row counts are published in one rename;
its journal segments are removed. The row count of the group `steps` is the number of records in the arrays, which is
also the journal position from which records count: one rename publishes both.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa

from genrl_graph.arrow.flat import has_text_beyond
from genrl_graph.errors import StoreError
from genrl_graph.store import run_folder
from genrl_graph.store.canonical import conform
from genrl_graph.store.durable import failed, make_folder, sync_folder
from genrl_graph.store.group_names import STEPS, check_distinct, check_group
from genrl_graph.store.journal import Journal, JournalEntry, Record, check_origin
from genrl_graph.store.pending import archived_records, check_origin_columns, pending_entries
from genrl_graph.store.renamed import ColumnNames
from genrl_graph.store.run_folder import WriterLock
from genrl_graph.store.run_path import PARTIAL, RunPath
from genrl_graph.store.view import StoreReader, StoreView, steps_table, view_on_disk

BLOCK_BYTES = 16 * 2**20
BLOCK_ROUNDS = 64


class RunStore:
    """The committed steps and rows of one run; made by `create` and `open`, closed by `with`.

    One process writes; any number of others read meanwhile and see what is committed. A block moves to zarr when the
    journal has `block_bytes` bytes or its records span `block_rounds` rounds.
    """

    def __init__(
        self,
        folder: Path,
        lock: WriterLock | None,
        *,
        block_bytes: int,
        block_rounds: int,
        salvages: bool = False,
    ) -> None:
        from genrl_graph.store.arrays import RolloutArrays

        self.folder = folder
        self._root = RunPath(folder)
        self.graph_yaml, self.versions = run_folder.read_graph(folder)
        self._lock = lock
        self._block_bytes, self._block_rounds = block_bytes, block_rounds
        run_folder.refuse_links(folder)
        self._arrays = RolloutArrays(self._root / run_folder.ROLLOUTS, salvages=salvages)
        self._arrays.check_names()
        self._reader = StoreReader(self._arrays)
        self._names = ColumnNames(self._arrays.layout)
        self._latest: StoreView | None = None  # as last read by a reader
        self._pinned: StoreView | None = None
        self._journal: Journal | None = None
        self._first_round: int | None = None  # of the records in the journal
        self._pending: list[JournalEntry] | None = None  # records in the journal, if read since the last commit
        self._groups: dict[str, tuple[pa.Schema, int]] = {}
        self.removed = 0  # half-written files and checkpoints of a crash, removed at opening
        if lock is not None:
            self._recover()

    @classmethod
    def create(
        cls,
        folder: Path,
        graph_yaml: str,
        versions: Mapping[str, Any],
        *,
        block_bytes: int = BLOCK_BYTES,
        block_rounds: int = BLOCK_ROUNDS,
    ) -> Self:
        """Create a run and open it for writing; graph.yaml is written last, so a folder that has it is complete.

        Raises `StoreError` where the folder is not empty; the remains of an interrupted creation are taken over.
        """
        from genrl_graph.store.arrays import RolloutArrays

        run_folder.refuse_taken(folder)
        with ExitStack() as undo:
            try:
                make_folder(folder)
                sync_folder(folder.parent)  # an interrupted creation may have made the folder, but not synced its name
                lock = WriterLock(folder)
                undo.callback(lock.release)
                run_folder.refuse_taken(folder)
                for name in (run_folder.JOURNAL, run_folder.CHECKPOINTS):
                    (RunPath(folder) / name).make_folder()
                RolloutArrays.create(RunPath(folder) / run_folder.ROLLOUTS)
                run_folder.write_graph(folder, graph_yaml, versions)
            except OSError as error:
                raise failed(folder, "make the run folder", error) from error
            store = cls(folder, lock, block_bytes=block_bytes, block_rounds=block_rounds)
            undo.pop_all()
        return store

    @classmethod
    def open(
        cls,
        folder: Path,
        mode: Literal["r", "a"] = "r",
        *,
        block_bytes: int = BLOCK_BYTES,
        block_rounds: int = BLOCK_ROUNDS,
    ) -> Self:
        """Open an existing run to read ("r") or to append ("a"); a crash has neither lost nor doubled committed rows.

        Raises `StoreError` where there is no run, where it is damaged or of a newer layout, and for "a" while
        another process writes it.
        """
        run_folder.read_graph(folder)
        with ExitStack() as undo:
            lock = None
            if mode == "a":
                lock = WriterLock(folder)
                undo.callback(lock.release)
            store = cls(folder, lock, block_bytes=block_bytes, block_rounds=block_rounds)
            undo.pop_all()
        return store

    @classmethod
    def salvage(cls, folder: Path) -> Self:
        """Open an existing run to read also what is damaged in its arrays, as far as it can be decoded.

        This tells which rows a damaged file changes; what is read is not to be trusted.
        """
        return cls(folder, None, block_bytes=BLOCK_BYTES, block_rounds=BLOCK_ROUNDS, salvages=True)

    @property
    def checkpoints(self) -> RunPath:
        """The folder of the checkpoints."""
        return self._root / run_folder.CHECKPOINTS

    def commit(self, records: Sequence[Record]) -> list[str]:
        """Commit records, durable when this returns, and return their content hashes (hex).

        A table without a column `round` (int32) or `holder` gets that of its record. Raises `StoreError`, with nothing
        committed, where a table holds null, too long texts or does not fit the earlier rows of its group, or where the
        disk refuses.
        It is also raised where a full block cannot move to zarr; then the records are committed to the journal.
        """
        journal = self._open_journal()
        groups = dict(self._groups)
        stored = [self._stored_form(record, groups) for record in records]
        self._require_room(stored)
        digests = journal.append_many(stored)
        self._groups, self._pending = groups, None
        if records:
            self._first_round = records[0].round if self._first_round is None else self._first_round
            if journal.size >= self._block_bytes or records[-1].round - self._first_round >= self._block_rounds:
                self.flush()
        return digests

    def flush(self) -> int:
        """Move all records of the journal to zarr and return their number.

        Raises `StoreError` where the disk refuses, or the records are damaged; nothing is lost, and a later call
        tries again.
        """
        journal = self._open_journal()
        try:
            pending = self._pending_entries(journal)
            if not pending:
                return 0
            self._arrays.append({STEPS: steps_table(pending), **_blocks(pending)})
            self._arrays.publish()
            self._first_round = self._pending = None
            journal.drop_before(journal.roll())
        except OSError as error:
            raise failed(self._arrays.folder.path, "write a block", error) from error
        return len(pending)

    def close(self) -> None:
        """Move all records to zarr and release the lock, even where the disk refuses (`StoreError`)."""
        if self._lock is None or self._journal is None:
            return
        lock, journal = self._lock, self._journal
        try:
            self.flush()
            journal.close()
        except OSError as error:
            raise failed(self.folder, "close the run", error) from error
        finally:
            self._lock = self._journal = None
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Let all reads of the block see what was committed when it began; what comes meanwhile is not looked for."""
        outer, self._pinned = self._pinned, self._view()
        try:
            yield
        finally:
            self._pinned = outer

    def groups(self) -> list[str]:
        """List the names of all groups of rows, in the order in which they appeared."""
        return self._reader.groups(self._view())

    def table(self, group: str, rounds: range | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a group that were committed in `rounds` (None: in all), in order of commit.

        `rounds` selects by the round of the record; rows from an earlier round keep that number in their own column
        `round`. `columns` reads only those. Raises `StoreError` for a group or a column that the run does not have.
        """
        stored = None if columns is None else self._names.stored_names(columns)
        return self._names.present(self._reader.table(self._view(), group, rounds, columns=stored))

    def steps(self, rounds: range | None = None) -> pa.Table:
        """Return one row for each committed record, in order: round, node, holder, rows, facts, digest.

        `rows` is a JSON object with the number of rows that the record added to each group; `facts` is JSON too.
        """
        return self._reader.steps(self._view(), rounds)

    def last_steps(self, count: int) -> pa.Table:
        """Return the `count` records that were committed last, in the form of `steps`, without reading the others."""
        return self._reader.last_steps(self._view(), count)

    def _view(self) -> StoreView:
        if self._pinned is not None:
            return self._pinned
        if self._journal is not None:
            return StoreView(self._arrays.counts, self._pending_entries(self._journal))
        self._latest = view_on_disk(self._arrays, self._root / run_folder.JOURNAL, self._latest)
        return self._latest

    def _open_journal(self) -> Journal:
        if self._journal is None:
            raise StoreError(f"{self.folder}: is not open for writing; open it with mode 'a'")
        return self._journal

    def _pending_entries(self, journal: Journal) -> Sequence[JournalEntry]:
        """Return the journal records that are not in the arrays yet.

        Re-read from disk: keeping all of them in memory from commit to flush would fragment the heap.
        """
        if self._pending is None:
            any_pending = journal.end > archived_records(self._arrays.counts)
            self._pending = pending_entries(journal.folder, self._arrays) if any_pending else []
        return self._pending

    def _recover(self) -> None:
        """Remove half-written files and a torn commit, drop journal records that are in zarr, and read the schemas.

        Rows in the arrays beyond the published ones are also in the journal: the next block overwrites them.
        """
        folder = self._root / run_folder.JOURNAL
        start = archived_records(self._arrays.counts)
        try:
            for needed in (folder, self.checkpoints):
                needed.make_folder()  # git and object stores do not copy empty folders
            self.removed = self._tidy()
            journal = Journal(folder, start=start)
            pending = self._pending_entries(journal)
            journal.drop_before(start if pending else journal.roll())
        except OSError as error:
            raise failed(self.folder, "open the run for writing", error) from error
        for group, rows in self._arrays.counts.items():
            if group != STEPS:
                self._groups[group] = (self._arrays.schema(group), rows)
        for entry in pending:
            for group, table in entry.record.tables.items():
                _add_to_schema(group, table, self._groups)
        self._first_round = pending[0].record.round if pending else None
        self._journal = journal

    def _require_room(self, records: Sequence[Record]) -> None:
        """Raise `StoreError` where records could be committed, but their texts are too long to move to zarr later."""
        from genrl_graph.store.chunks import longest_short_text

        long = longest_short_text()
        entries = [JournalEntry(0, record, "") for record in records]
        tables = {name: table for name, table in _blocks(entries).items() if table.nbytes > long}
        if not any(has_text_beyond(column, long) for table in tables.values() for column in table.columns):
            return
        self.flush()  # what the journal holds comes before them
        for name, table in tables.items():
            self._arrays.require_room(name, table)

    def _stored_form(self, record: Record, groups: dict[str, tuple[pa.Schema, int]]) -> Record:
        """Return the record with its tables in the form of the store; `groups` (schema, rows) is updated with them."""
        check_origin(record.round, record.node, record.holder, record.node)
        tables: dict[str, pa.Table] = {}
        for name, table in record.tables.items():
            table = self._names.stored(_with_origin(table, record))
            known, rows = groups.get(name, (None, 0))
            if known is None:
                _check_names(name, table.column_names, groups)
            tables[name] = conform(table, known, fixed=rows > 0, where=name)
            check_origin_columns(tables[name].schema, name)
            _add_to_schema(name, tables[name], groups)
        return Record(record.round, record.node, record.holder, record.facts, tables)

    def _tidy(self) -> int:
        """Remove files and checkpoints that a crash left half written, and return how many."""
        partial = [self._root / name for name in self._root.listing() if name.endswith(PARTIAL)]
        leftovers = [*self._arrays.leftovers(), *partial]
        for path in leftovers:
            path.unlink()
        return len(leftovers) + run_folder.tidy_checkpoints(self.checkpoints)


def _add_to_schema(name: str, table: pa.Table, groups: dict[str, tuple[pa.Schema, int]]) -> None:
    known, rows = groups.get(name, (table.schema, 0))
    groups[name] = (known if rows else table.schema, rows + table.num_rows)


def _with_origin(table: pa.Table, record: Record) -> pa.Table:
    names = table.column_names
    if "round" not in names:
        table = table.append_column("round", pa.repeat(pa.scalar(record.round, pa.int32()), table.num_rows))
    if "holder" not in names:
        table = table.append_column("holder", pa.repeat(pa.scalar(record.holder, pa.string()), table.num_rows))
    return table


def _check_names(group: str, columns: Sequence[str], groups: Mapping[str, tuple[pa.Schema, int]]) -> None:
    """Refuse names that zarr cannot use, and a group and a column that would share a path."""
    check_group(group)
    check_distinct({other: schema.names for other, (schema, _) in groups.items()} | {group: columns})


def _blocks(pending: Sequence[JournalEntry]) -> dict[str, pa.Table]:
    """Concatenate the rows of all records by group, in the order in which the groups appeared."""
    parts: dict[str, list[pa.Table]] = {}
    for entry in pending:
        for name, table in entry.record.tables.items():
            parts.setdefault(name, []).append(table)
    nonempty = {name: [table for table in tables if table.num_rows] for name, tables in parts.items()}
    return {name: pa.concat_tables(nonempty[name] or tables[-1:]) for name, tables in parts.items()}
