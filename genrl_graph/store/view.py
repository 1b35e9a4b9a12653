"""Read the rows of a run: those in the arrays, then those of journal records that are not in the arrays yet."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from genrl_graph.arrow.flat import empty
from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed
from genrl_graph.store.group_names import STEPS, STEPS_SCHEMA
from genrl_graph.store.journal import JournalEntry
from genrl_graph.store.pending import JournalFiles, PendingRecords, archived_records, journal_files
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.strict_json import RESTORE, is_count, parse_object

if TYPE_CHECKING:
    from genrl_graph.store.arrays import RolloutArrays

READ_TRIES = 100


@dataclass(frozen=True, slots=True)
class StoreView:
    """The committed state at one moment: published row counts, and later journal records in order of commit.

    `files` is the state of the journal just before it was read, `records` what goes on where this reading ended.
    """

    counts: dict[str, int]
    pending: Sequence[JournalEntry]
    files: JournalFiles = ()
    records: PendingRecords | None = None


def view_on_disk(arrays: "RolloutArrays", journal: RunPath, latest: StoreView | None = None) -> StoreView:
    """Read a consistent view from the disk while another process may write; `latest` if nothing has changed since.

    Records that `latest` has are not read again while the journal only grows. A writer publishes new counts before it
    drops journal segments. So counts that are equal before and after the journal was read belong to what was read.
    Raises `StoreError` where the run is damaged.
    """
    for _ in range(READ_TRIES):
        counts = arrays.counts = arrays.published()
        try:
            files = journal_files(journal)
            if latest is not None and (latest.counts, latest.files) == (counts, files):
                return latest
            records = _records(journal, arrays, files, latest)
        except FileNotFoundError:
            continue
        except StoreError:
            if arrays.published() == counts:
                raise
            continue
        except OSError as error:
            raise failed(journal.path, "read", error) from error
        if arrays.published() == counts:
            return StoreView(counts, tuple(records.entries), files, records)
    raise StoreError(f"{journal}: is written faster than it can be read; read again when the run is slower")


def _records(
    journal: RunPath, arrays: "RolloutArrays", files: JournalFiles, latest: StoreView | None
) -> PendingRecords:
    """Return the records of `latest` with those that the journal gained since, or all of them read anew."""
    known = latest.records if latest is not None and latest.counts == arrays.counts else None
    if latest is not None and known is not None and known.follow(latest.files, files):
        return known
    records = PendingRecords(journal, arrays)
    records.read()
    return records


def rows_of_step(text: str, where: object) -> dict[str, int]:
    """Return the number of rows that a record added to each group, from the JSON in `steps`."""
    rows = parse_object(text, where)
    if not all(is_count(count) for count in rows.values()):
        raise StoreError(f"{where}: {text[:80]!r} are no numbers of rows; {RESTORE}")
    return rows


def steps_table(records: Sequence[JournalEntry]) -> pa.Table:
    """Return one row per record: round, node, holder, rows by group (JSON), facts (JSON) and content hash."""
    columns = [
        [entry.record.round for entry in records],
        [entry.record.node for entry in records],
        [entry.record.holder for entry in records],
        [json.dumps({name: table.num_rows for name, table in entry.record.tables.items()}) for entry in records],
        [json.dumps(entry.record.facts, sort_keys=True) for entry in records],
        [entry.digest for entry in records],
    ]
    arrays = [pa.array(values, kind.type) for values, kind in zip(columns, STEPS_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=STEPS_SCHEMA)


@dataclass(slots=True)
class StoreReader:
    """Reads groups, and keeps an index of the rounds of published rows."""

    arrays: "RolloutArrays"
    _indexed: int = 0  # records of which the index knows the rows
    _spans: dict[str, dict[int, list[tuple[int, int]]]] = field(default_factory=dict)  # by group and round
    _ends: dict[str, int] = field(default_factory=dict)  # indexed rows by group

    def groups(self, view: StoreView) -> list[str]:
        """List the groups in the order in which they appeared, without `steps`."""
        names = [*view.counts, *(name for entry in view.pending for name in entry.record.tables)]
        return [name for name in dict.fromkeys(names) if name != STEPS]

    def table(
        self, view: StoreView, group: str, rounds: range | None, *, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the rows of a group that were committed in `rounds` (None: in all), in order of commit.

        Raises `StoreError` for a group, or one of the `columns`, that the run does not have.
        """
        if group == STEPS:
            return self.steps(view, rounds).select(columns or STEPS_SCHEMA.names)
        tables = [entry.record.tables[group] for entry in view.pending if group in entry.record.tables]
        if group not in view.counts and not tables:
            raise StoreError(
                f"{self.arrays.folder}: no group {group!r}; it has {', '.join(self.groups(view)) or 'none'}"
            )
        schema = self._schema(view, group, tables)
        if columns is not None:
            schema = pa.schema([self._field(schema, group, name) for name in columns])
        parts = self._published(view, group, rounds, columns=columns)
        for entry in view.pending:
            if group in entry.record.tables and _in_rounds(entry.record.round, rounds):
                parts.append(entry.record.tables[group].select(schema.names))
        parts = [part for part in parts if part.num_rows]
        return pa.concat_tables(parts) if parts else empty(schema)

    def steps(self, view: StoreView, rounds: range | None) -> pa.Table:
        """Return one row per record committed in `rounds` (None: in all), in order of commit."""
        pending = [entry for entry in view.pending if _in_rounds(entry.record.round, rounds)]
        return pa.concat_tables([empty(STEPS_SCHEMA), *self._published(view, STEPS, rounds), steps_table(pending)])

    def last_steps(self, view: StoreView, count: int) -> pa.Table:
        """Return the last `count` records, in order of commit."""
        pending = steps_table(view.pending[-count:])
        end = archived_records(view.counts)
        start = max(0, end - max(0, count - pending.num_rows))
        published = [self.arrays.read(STEPS, start, end)] if start < end else []
        return pa.concat_tables([empty(STEPS_SCHEMA), *published, pending])

    def _schema(self, view: StoreView, group: str, pending: Sequence[pa.Table]) -> pa.Schema:
        """Return the types of the published rows, else of the first pending rows, else of the last empty table."""
        if view.counts.get(group) or not pending:
            return self.arrays.schema(group)
        return next((table for table in pending if table.num_rows), pending[-1]).schema

    def _field(self, schema: pa.Schema, group: str, name: str) -> pa.Field:
        if name not in schema.names:
            raise StoreError(
                f"{self.arrays.folder}: {group!r} has no column {name!r}; it has {', '.join(schema.names)}"
            )
        return schema.field(name)

    def _published(
        self, view: StoreView, group: str, rounds: range | None, *, columns: Sequence[str] | None = None
    ) -> list[pa.Table]:
        rows = view.counts.get(group, 0)
        try:
            spans = [(0, rows)] if rounds is None else self._spans_of(view, group, rounds)
            return [self.arrays.read(group, *span, columns=columns) for span in spans if span[1] > span[0]]
        except OSError as error:
            raise failed(self.arrays.folder.path / group, "read", error) from error

    def _spans_of(self, view: StoreView, group: str, rounds: range) -> list[tuple[int, int]]:
        """Return the published rows of some rounds as (start, stop), in order of commit, neighbours merged."""
        self._index_records(archived_records(view.counts))
        by_round = self._spans.get(group, {})
        wanted = (number for number in by_round if number in rounds) if len(by_round) < len(rounds) else rounds
        spans: list[tuple[int, int]] = []
        for start, stop in sorted(span for number in wanted for span in by_round.get(number, [])):
            if stop > view.counts.get(group, 0):
                break
            if spans and spans[-1][1] == start:
                start = spans.pop()[0]
            spans.append((start, stop))
        return spans

    def _index_records(self, upto: int) -> None:
        """Index the rows of the records from the last call up to record `upto`."""
        if upto <= self._indexed:
            return
        steps = self.arrays.read(STEPS, self._indexed, upto, columns=("round", "rows"))
        for number, text in zip(steps["round"].to_pylist(), steps["rows"].to_pylist(), strict=True):
            for group, rows in (rows_of_step(text, self.arrays.folder / STEPS) | {STEPS: 1}).items():
                start = self._ends.get(group, 0)
                self._ends[group] = start + rows
                self._spans.setdefault(group, {}).setdefault(number, []).append((start, start + rows))
        self._indexed = upto


def _in_rounds(number: int, rounds: range | None) -> bool:
    return rounds is None or number in rounds
