"""What a run has recorded: committed through the journal, kept in arrays, read as one.

A commit is one append to the journal. Blocks of records move to `rollouts.zarr` in three steps, each of which may be
the last before a crash: rows are written behind the published ones; the row counts are published in one rename;
the journal is cut. The row count of the group `steps` is the number of records that the arrays hold, which is the
position in the journal from which records count, so one rename publishes both.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa

from genrl_graph.errors import StoreError
from genrl_graph.store import run_folder
from genrl_graph.store.canonical import conform
from genrl_graph.store.durable import PARTIAL, failed, make_folder, sync_folder
from genrl_graph.store.journal import Journal, JournalEntry, Record, entries
from genrl_graph.store.run_folder import WriterLock
from genrl_graph.store.view import STEPS, StoreReader, StoreView, position, steps_table, view_on_disk

BLOCK_BYTES = 16 * 2**20
BLOCK_ROUNDS = 64


class RunStore:
    """The record of one run; `create` and `open` make it, `with` closes it.

    One process writes; any number read meanwhile and see what is committed. A block goes to zarr when `block_bytes`
    are in the journal or its records span more than `block_rounds` rounds.
    """

    def __init__(self, folder: Path, lock: WriterLock | None, *, block_bytes: int, block_rounds: int) -> None:
        from genrl_graph.store.arrays import RolloutArrays

        self.folder = folder
        self.graph_yaml, self.versions = run_folder.read_graph(folder)
        self._lock = lock
        self._block_bytes, self._block_rounds = block_bytes, block_rounds
        self._arrays = RolloutArrays(folder / run_folder.ROLLOUTS)
        self._history = StoreReader(self._arrays)
        self._journal: Journal | None = None
        self._since: int | None = None  # the round of the first record in the journal
        self._pending: list[JournalEntry] | None = None  # what is there, where somebody asked since the last commit
        self._groups: dict[str, tuple[pa.Schema, int]] = {}
        self.removed = 0  # files and checkpoints that a crash had left half written
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
        """A new run, open for writing; graph.yaml appears last, so a folder that has it is whole.

        Raises `StoreError` where the folder holds a run or anything else; what a cut creation left is taken over.
        """
        from genrl_graph.store.arrays import RolloutArrays

        run_folder.refuse_taken(folder)
        with ExitStack() as undo:
            try:
                make_folder(folder)
                sync_folder(folder.parent)  # a creation that was cut may have made it
                lock = WriterLock(folder)
                undo.callback(lock.release)
                run_folder.refuse_taken(folder)
                for name in (run_folder.JOURNAL, run_folder.CHECKPOINTS):
                    (folder / name).mkdir(exist_ok=True)
                RolloutArrays.create(folder / run_folder.ROLLOUTS)
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
        """A run that exists, to read ("r") or to go on with ("a"): every committed row once, wherever a crash hit.

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

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / run_folder.CHECKPOINTS

    def commit(self, records: Sequence[Record]) -> list[str]:
        """Record steps, all of them durable when this returns; gives their content hashes.

        Every table gets the columns `round` (int32) and `holder` of its record where it has none of that name.
        Raises `StoreError`, with nothing recorded, where a table holds null or does not fit the earlier rows of its
        group, or the disk refuses; where only the block cannot be written, the records are in the journal.
        """
        journal = self._writing()
        groups = dict(self._groups)
        digests = journal.append_many([_conformed(record, groups) for record in records])
        self._groups, self._pending = groups, None
        if records:
            self._since = records[0].round if self._since is None else self._since
            if journal.size >= self._block_bytes or records[-1].round - self._since >= self._block_rounds:
                self.flush()
        return digests

    def flush(self) -> int:
        """Move what is in the journal to zarr; returns how many records that were.

        Raises `StoreError` where the disk refuses or has damaged them; nothing is lost, and it can be called again.
        """
        journal = self._writing()
        try:
            pending = self._in_journal(journal)
            if not pending:
                return 0
            self._arrays.append({STEPS: steps_table(pending), **_blocks(pending)})
            self._arrays.publish()
            self._since = self._pending = None
            journal.drop_before(journal.roll())
        except OSError as error:
            raise failed(self._arrays.folder, "write a block", error) from error
        return len(pending)

    def close(self) -> None:
        """Move all to zarr and let the next writer in, also where the disk refuses (`StoreError`)."""
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

    def groups(self) -> list[str]:
        """The names of all groups of rows, in the order in which they appeared."""
        return self._history.groups(self._view())

    def table(self, group: str, rounds: range | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a group that were committed in `rounds` (all if None), in order of commit.

        Rows that came late keep their own `round`; what counts here is the round of the record that holds them.
        Only `columns` are read where they are given. Raises `StoreError` for a group or a column that the run does
        not have.
        """
        return self._history.table(self._view(), group, rounds, columns=columns)

    def steps(self, rounds: range | None = None) -> pa.Table:
        """One row for each committed record, in order: round, node, holder, rows, facts, digest.

        `rows` is a JSON object, the number of rows that the record added to each group; `facts` is JSON too.
        """
        return self._history.steps(self._view(), rounds)

    def _view(self) -> StoreView:
        if self._journal is not None:
            return StoreView(self._arrays.counts, self._in_journal(self._journal))
        return view_on_disk(self._arrays, self.folder / run_folder.JOURNAL)

    def _writing(self) -> Journal:
        if self._journal is None:
            raise StoreError(f"{self.folder}: is not open for writing; open it with mode 'a'")
        return self._journal

    def _in_journal(self, journal: Journal) -> Sequence[JournalEntry]:
        """The records behind those of the arrays, read from the disk.

        In memory they would outlive what steps need for a moment, between which they lie: holes that nothing fills.
        """
        start = position(self._arrays.counts)
        if self._pending is None:
            self._pending = list(entries(journal.folder, since=start)) if journal.end > start else []
        return self._pending

    def _recover(self) -> None:
        """Remove what was cut, skip what is in zarr already, keep the rest of the journal.

        Rows beyond the published ones are those of the journal: the next block writes them again, in the same places.
        """
        folder = self.folder / run_folder.JOURNAL
        start = position(self._arrays.counts)
        try:
            for needed in (folder, self.checkpoints):
                needed.mkdir(exist_ok=True)  # a copy made by git, or from an object store, has no empty folders
            self.removed = self._tidy()
            journal = Journal(folder, start=start)
            pending = self._in_journal(journal)
            journal.drop_before(start if pending else journal.roll())
        except OSError as error:
            raise failed(self.folder, "open the run for writing", error) from error
        for group, rows in self._arrays.counts.items():
            if group != STEPS:
                self._groups[group] = (self._arrays.schema(group), rows)
        for entry in pending:
            for group, table in entry.record.tables.items():
                _learn(group, table, self._groups)
        self._since = pending[0].record.round if pending else None
        self._journal = journal

    def _tidy(self) -> int:
        """Remove files and checkpoints that a crash left half written; returns how many."""
        leftovers = [*self._arrays.leftovers(), *self.folder.glob(f"*{PARTIAL}")]
        for path in leftovers:
            path.unlink()
        return len(leftovers) + run_folder.tidy_checkpoints(self.checkpoints)


def _conformed(record: Record, groups: dict[str, tuple[pa.Schema, int]]) -> Record:
    """The record as it is stored; `groups` learns what it adds."""
    tables: dict[str, pa.Table] = {}
    for name, table in record.tables.items():
        table = _with_origin(table, record)
        known, rows = groups.get(name, (None, 0))
        if known is None:
            _check_names(name, table.column_names, groups)
        tables[name] = conform(table, known, fixed=rows > 0, where=name)
        _learn(name, tables[name], groups)
    return Record(record.round, record.node, record.holder, record.facts, tables)


def _learn(name: str, table: pa.Table, groups: dict[str, tuple[pa.Schema, int]]) -> None:
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
    """Refuse names that are no names in zarr, and a group and a column that would share a place."""
    for part in (*group.split("/"), *columns):
        if (
            not part
            or "/" in part
            or "\0" in part
            or not part.strip(".")
            or part.startswith("__")
            or part == "zarr.json"
        ):
            raise StoreError(f"{group}: {part!r} cannot name a group or a column; rename it")
    if group.split("/")[0] == STEPS:
        raise StoreError(f"{group}: the name {STEPS!r} is taken by the record of all steps; rename the node")
    for other, (schema, _) in groups.items():
        for outer, names, inner in ((other, schema.names, group), (group, columns, other)):
            for name in names:
                if f"{inner}/".startswith(f"{outer}/{name}/"):
                    raise StoreError(f"{inner}: group {outer!r} has a column {name!r}; rename one of them")


def _blocks(pending: Sequence[JournalEntry]) -> dict[str, pa.Table]:
    """The rows of all records by group, in the order in which the groups appeared."""
    parts: dict[str, list[pa.Table]] = {}
    for entry in pending:
        for name, table in entry.record.tables.items():
            parts.setdefault(name, []).append(table)
    full = {name: [table for table in tables if table.num_rows] for name, tables in parts.items()}
    return {name: pa.concat_tables(full[name]) if full[name] else tables[-1] for name, tables in parts.items()}
