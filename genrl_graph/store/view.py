"""The rows of a run, read as one from the arrays and from the journal records that are not in them yet."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from genrl_graph.arrow.flat import empty
from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed
from genrl_graph.store.journal import JournalEntry, entries

if TYPE_CHECKING:
    from genrl_graph.store.arrays import RolloutArrays

STEPS = "steps"
STEPS_SCHEMA = pa.schema(
    [("round", pa.int32()), *((name, pa.string()) for name in ("node", "holder", "rows", "facts", "digest"))]
)
READ_TRIES = 100


@dataclass(frozen=True, slots=True)
class StoreView:
    """What was committed at one moment: published row counts, and the records behind them in order of commit."""

    counts: dict[str, int]
    pending: Sequence[JournalEntry]


def position(counts: dict[str, int]) -> int:
    """How many records of the run the arrays hold."""
    return counts.get(STEPS, 0)


def view_on_disk(arrays: "RolloutArrays", journal: Path) -> StoreView:
    """A consistent view while another process may write.

    A writer publishes counts before it cuts the journal, so counts that are the same before and after the journal
    was read fit it. Raises `StoreError` where the run is damaged.
    """
    for _ in range(READ_TRIES):
        counts = arrays.published()
        try:
            pending = list(entries(journal, since=position(counts)))
        except FileNotFoundError:
            continue
        except StoreError:
            if arrays.published() == counts:
                raise
            continue
        if arrays.published() == counts:
            return StoreView(counts, pending)
    raise StoreError(f"{journal}: is written faster than it can be read; read again when the run is slower")


def steps_table(records: Sequence[JournalEntry]) -> pa.Table:
    """One row a record: round, node, holder, rows by group (JSON), facts (JSON) and content hash."""
    given = [entry.record for entry in records]
    columns = [
        [record.round for record in given],
        [record.node for record in given],
        [record.holder for record in given],
        [json.dumps({name: table.num_rows for name, table in record.tables.items()}) for record in given],
        [json.dumps(record.facts, sort_keys=True) for record in given],
        [entry.digest for entry in records],
    ]
    arrays = [pa.array(values, kind.type) for values, kind in zip(columns, STEPS_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=STEPS_SCHEMA)


@dataclass(slots=True)
class StoreReader:
    """Reads groups; remembers which published rows belong to which round."""

    arrays: "RolloutArrays"
    _known: int = 0
    _spans: dict[str, dict[int, list[tuple[int, int]]]] = field(default_factory=dict)  # by group and round
    _ends: dict[str, int] = field(default_factory=dict)

    def groups(self, view: StoreView) -> list[str]:
        """The groups in the order in which they appeared, without `steps`."""
        names = [*view.counts, *(name for entry in view.pending for name in entry.record.tables)]
        return [name for name in dict.fromkeys(names) if name != STEPS]

    def table(
        self, view: StoreView, group: str, rounds: range | None, *, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The rows of a group that were committed in some rounds, or all of them, in order of commit.

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
            if group in entry.record.tables and _within(entry.record.round, rounds):
                parts.append(entry.record.tables[group].select(schema.names))
        parts = [part for part in parts if part.num_rows]
        return pa.concat_tables(parts) if parts else empty(schema)

    def steps(self, view: StoreView, rounds: range | None) -> pa.Table:
        """The committed records of some rounds, or of all, in order of commit."""
        pending = [entry for entry in view.pending if _within(entry.record.round, rounds)]
        return pa.concat_tables([empty(STEPS_SCHEMA), *self._published(view, STEPS, rounds), steps_table(pending)])

    def _schema(self, view: StoreView, group: str, pending: Sequence[pa.Table]) -> pa.Schema:
        """The types that hold: those of the published rows, else of the first rows, else of the last empty table."""
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
            spans = [(0, rows)] if rounds is None else self._rows_of(view, group, rounds)
            return [self.arrays.read(group, *span, columns=columns) for span in spans if span[1] > span[0]]
        except OSError as error:
            raise failed(self.arrays.folder / group, "read", error) from error

    def _rows_of(self, view: StoreView, group: str, rounds: range) -> list[tuple[int, int]]:
        """The rows of some rounds as few spans, in order of commit."""
        self._learn(position(view.counts))
        known = self._spans.get(group, {})
        wanted = (number for number in known if number in rounds) if len(known) < len(rounds) else rounds
        found = sorted(span for number in wanted for span in known.get(number, []))
        spans: list[tuple[int, int]] = []
        for start, stop in found:
            if stop > view.counts.get(group, 0):
                break
            if spans and spans[-1][1] == start:
                start = spans.pop()[0]
            spans.append((start, stop))
        return spans

    def _learn(self, upto: int) -> None:
        """Note the rows of the records that were published since the last call."""
        if upto <= self._known:
            return
        steps = self.arrays.read(STEPS, self._known, upto, columns=("round", "rows"))
        for number, text in zip(steps["round"].to_pylist(), steps["rows"].to_pylist(), strict=True):
            for group, rows in (json.loads(text) | {STEPS: 1}).items():
                start = self._ends.get(group, 0)
                self._ends[group] = start + rows
                self._spans.setdefault(group, {}).setdefault(number, []).append((start, start + rows))
        self._known = upto


def _within(number: int, rounds: range | None) -> bool:
    return rounds is None or number in rounds
