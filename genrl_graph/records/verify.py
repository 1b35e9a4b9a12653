"""Verify all of a run folder, and name every file in which something is wrong.

Each chunk has a checksum, each journal record and checkpoint file a hash. Metadata and row counts follow from one
another. Every record in the arrays is rebuilt from its rows and compared with the hash with which it was committed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.flat import empty
from genrl_graph.arrow.schema import leaves, schema_json
from genrl_graph.errors import GraphError, StoreError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import refuse_newer
from genrl_graph.records.facts import check_facts, read_facts
from genrl_graph.store import run_folder
from genrl_graph.store.arrays import MAX_METADATA_BYTES, SCHEMA, RolloutArrays, group_file, root_file
from genrl_graph.store.canonical import conform
from genrl_graph.store.chunks import ChunkedArray
from genrl_graph.store.group_names import METADATA, STEPS, check_group, group_path
from genrl_graph.store.journal import Record, check_origin, digest_of, torn_tail
from genrl_graph.store.manifest import damaged_files
from genrl_graph.store.metrics_file import metric_lines
from genrl_graph.store.notes_file import read_notes
from genrl_graph.store.pending import archived_records, check_origin_columns, pending_entries
from genrl_graph.store.renamed import ColumnNames
from genrl_graph.store.run_path import RunPath, refused_by_name
from genrl_graph.store.strict_json import RESTORE, parse_object
from genrl_graph.store.view import rows_of_step

ROWS_A_READ = 16_384

Step = dict[str, Any]


@dataclass(slots=True)
class Report:
    """The problems of a run folder, one line each, and how much was checked."""

    problems: list[str] = field(default_factory=list)
    records: int = 0
    rebuilt: int = 0
    pending: int = 0
    groups: int = 0
    rows: int = 0
    chunks: int = 0
    checkpoints: int = 0
    leftovers: int = 0

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Add the `StoreError` of one check to the problems, instead of raising it."""
        try:
            yield
        except StoreError as error:
            self.problems.append(str(error))

    def summary(self) -> str:
        """Return one line that says how much was checked."""
        parts = [
            f"{self.records} records ({self.rebuilt} rebuilt from the arrays, {self.pending} in the journal)",
            f"{self.rows} rows in {self.groups} groups",
            f"{self.chunks} chunks",
            f"{self.checkpoints} checkpoints",
        ]
        leftovers = f"; {self.leftovers} files left by a crash, `store compact` removes them" if self.leftovers else ""
        return ", ".join(parts) + leftovers


def verify_run(folder: Path) -> Report:
    """Check a run folder, without changing it.

    Raises `StoreError` where there is no run, where it has another layout version, or while a process writes it.
    """
    text, versions = run_folder.read_graph(folder)
    lock = run_folder.WriterLock(folder, shared=True)
    report, root, pyarrow = Report(), RunPath(folder), str(versions.get("pyarrow", pa.__version__))
    try:
        arrays = RolloutArrays(root / run_folder.ROLLOUTS)
        with report.noting():
            run_folder.refuse_links(folder)
        with report.noting():
            _check_graph(folder / run_folder.GRAPH, text)
        with report.noting():
            _check_checkpoints(root / run_folder.CHECKPOINTS, report)
        with report.noting():
            _check_journal(root / run_folder.JOURNAL, arrays, report, pyarrow)
        with report.noting():
            for _ in metric_lines(folder):
                pass
        with report.noting():
            read_notes(folder)
        _ArraysVerifier(arrays, report, pyarrow).run()
    finally:
        lock.release()
    return report


def _check_graph(path: Path, text: str) -> None:
    try:
        refuse_newer(parse_document(text, file=str(path)).values, path)
    except GraphError as error:
        raise StoreError(f"{path}: is not YAML that a run writes: {error}; {RESTORE}") from error


def _check_checkpoints(checkpoints: RunPath, report: Report) -> None:
    if not checkpoints.exists():
        return
    partial = run_folder.partial_checkpoints(checkpoints)
    report.leftovers += len(partial)
    checkpoints.require_plain()
    for rounds in run_folder.checkpoint_rounds(checkpoints):
        report.checkpoints += 1
        folder = checkpoints / run_folder.checkpoint_name(rounds)
        with report.noting():
            report.problems += [f"{path}: {problem}; {RESTORE}" for path, problem in damaged_files(folder)]


def _check_journal(folder: RunPath, arrays: RolloutArrays, report: Report, pyarrow: str) -> None:
    if not folder.exists():
        return
    folder.require_plain()
    start = archived_records(arrays.counts)
    for entry in pending_entries(folder, arrays):
        report.pending += 1
        check_facts(dict(entry.record.facts), f"{folder}: record {entry.position}")
        if digest_of(entry.record) != entry.digest:  # the arrays would give the hash of what a run writes
            raise StoreError(f"{folder}: {_differs(entry.position, entry.record, entry.digest, pyarrow)}; {RESTORE}")
    torn = torn_tail(folder, since=start)
    if torn is not None:
        path, end, size = torn
        problem = f"the {size} bytes from byte {end} on are no whole commit: it is torn or damaged"
        raise StoreError(f"{path}: {problem}; restore the file from a copy, or resume the run, which removes them")


class _ArraysVerifier:
    """Checks `rollouts.zarr`; `known` are the files that belong to it, `sound` the groups whose rows can be read."""

    def __init__(self, arrays: RolloutArrays, report: Report, pyarrow: str) -> None:
        self.arrays, self.report, self.pyarrow = arrays, report, pyarrow
        self.known: set[RunPath] = {arrays.folder / METADATA}
        self.sound: set[str] = set()

    def run(self) -> None:
        """Run all checks; those that read rows skip the groups that are not sound."""
        arrays, report, counts = self.arrays, self.report, self.arrays.counts
        report.records = archived_records(counts) + report.pending
        report.groups = len(counts.keys() - {STEPS})
        report.rows = sum(rows for group, rows in counts.items() if group != STEPS)
        with report.noting():
            _check_bytes(arrays.folder / METADATA, root_file(counts, arrays.layout))
        with report.noting():
            arrays.check_names()
        for group in counts:
            before = len(report.problems)
            with report.noting():
                self._check_group(group)
            if len(report.problems) == before:
                self.sound.add(group)
        self._check_strays()
        if STEPS in self.sound:
            with report.noting():
                self._check_records()

    def _check_group(self, group: str) -> None:
        """Check the metadata and chunks of a group, and that its offsets fit the arrays that they point into."""
        arrays = self.arrays
        schema = arrays.schema(group)
        metadata = group_path(arrays.folder, group) / METADATA
        if group != STEPS:
            check_group(group)
            check_origin_columns(schema, f"{metadata}: {group}")
            ColumnNames(arrays.layout).present(empty(schema))
        _check_bytes(metadata, group_file({"schema_version": SCHEMA, "columns": schema_json(schema)}))
        self.known.add(metadata)
        levels = {"": arrays.counts[group]}
        for leaf in leaves(schema):
            if leaf.level not in levels:
                continue  # the offsets of this level are damaged, which is reported already
            array = arrays.array(group, leaf)
            length = levels[leaf.level] + (leaf.into is not None)
            with self.report.noting():
                self._check_array(array, length)
                if leaf.into is not None:
                    levels[leaf.into] = _checked_offsets(array, length)

    def _check_array(self, array: ChunkedArray, length: int) -> None:
        self.known |= {array.metadata, *map(array.chunk, array.chunks(length))}
        with self.report.noting():
            _check_metadata(array, length)
        before = len(self.report.problems)
        for number in array.chunks(length):
            self.report.chunks += 1
            with self.report.noting():
                array.load(number)
        if len(self.report.problems) > before:
            raise StoreError(f"{array.folder}: cannot be read from end to end, because of the chunks above")

    def _check_strays(self) -> None:
        """Report files that belong to no array; with records in the journal, such files may be unpublished rows."""
        try:
            leftovers = set(self.arrays.leftovers())
        except StoreError as error:
            self.report.problems.append(str(error))
            return
        self.report.leftovers += len(leftovers)
        if self.report.pending or self.sound != self.arrays.counts.keys():
            return
        for path in self.arrays.folder.walk():
            if path not in self.known and path not in leftovers:
                self.report.problems.append(f"{path}: belongs to no array; remove it")

    def _check_records(self) -> None:
        """Check the records of the arrays, a few at a time, and that their rows add up to the published counts."""
        ends = dict.fromkeys(self.arrays.counts, 0)
        steps: list[Step] = []
        for step in self.arrays.read(STEPS, 0, self.arrays.counts[STEPS]).to_pylist():
            where = f"{self.arrays.folder / STEPS}: record {ends[STEPS] + len(steps)}"
            check_origin(step["round"], step["node"], step["holder"], where)
            facts = read_facts(step["facts"], where)
            steps.append(step | {"rows": rows_of_step(step["rows"], where), "facts": facts})
            if sum(sum(step["rows"].values()) for step in steps) >= ROWS_A_READ:
                self._check_steps(steps, ends)
                steps = []
        self._check_steps(steps, ends)
        for group, rows in self.arrays.counts.items():
            if group != STEPS and ends.get(group, 0) != rows:
                problem = f"{rows} rows of {group!r} are published, but its records have {ends[group]}"
                raise StoreError(f"{self.arrays.folder / METADATA}: {problem}; {RESTORE}")

    def _check_steps(self, steps: list[Step], ends: dict[str, int]) -> None:
        """Rebuild records and compare their hashes; `ends`, the last rows by group, is moved on by their rows."""
        begins = dict(ends)
        first = ends[STEPS]
        spans_of = [self._spans(step, ends) for step in steps]
        ends[STEPS] = first + len(steps)
        groups = {group for spans in spans_of for group in spans if group in self.sound}
        tables = {group: self.arrays.read(group, begins[group], ends[group]) for group in groups}
        for number, (step, spans) in enumerate(zip(steps, spans_of, strict=True), start=first):
            if not spans.keys() <= self.sound or any(stop == 0 for _, stop in spans.values()):
                continue  # an empty table in a group without rows was hashed with types that the arrays do not have
            parts = {group: tables[group].slice(a - begins[group], b - a) for group, (a, b) in spans.items()}
            rows = {name: conform(part, part.schema, fixed=True, where=name) for name, part in parts.items()}
            record = Record(step["round"], step["node"], step["holder"], step["facts"], rows)
            self.report.rebuilt += 1
            if digest_of(record) != step["digest"]:
                differs = _differs(number, record, step["digest"], self.pyarrow)
                self.report.problems.append(f"{self.arrays.folder}: {differs}; {RESTORE}")

    def _spans(self, step: Step, ends: dict[str, int]) -> dict[str, tuple[int, int]]:
        """Return the rows of a record by group, as (start, stop), and move `ends` on."""
        spans = {}
        for group, rows in step["rows"].items():
            if group not in self.arrays.counts:
                raise StoreError(f"{self.arrays.folder / METADATA}: no group {group!r}, which records have; {RESTORE}")
            spans[group] = (ends[group], ends[group] + rows)
            ends[group] += rows
        return spans


def _differs(number: int, record: Record, digest: str, pyarrow: str) -> str:
    """Describe a record whose rows do not give its hash, and the version of pyarrow that wrote it if it is another."""
    where = f"record {number} (round {record.round}, {record.node}, {record.holder})"
    other = f" by pyarrow {pyarrow}, this is {pa.__version__}" if pyarrow != pa.__version__ else ""
    return f"{where}: its rows do not give the hash {digest} with which it was committed{other}"


def _check_metadata(array: ChunkedArray, length: int) -> None:
    """Check the metadata of an array of `length` elements, or more where a crash hit before a block was published."""
    with refused_by_name(array.metadata, "read"):
        shape = parse_object(array.metadata.read(MAX_METADATA_BYTES), array.metadata).get("shape")
    first = shape[0] if isinstance(shape, list) and shape else None
    if not isinstance(first, int) or first < length:
        raise StoreError(f"{array.metadata}: {str(first)[:40]} of {length} elements; {RESTORE}")
    _check_bytes(array.metadata, array.describe(first))


def _check_bytes(path: RunPath, expected: bytes) -> None:
    with refused_by_name(path, "read"):
        data = path.read(MAX_METADATA_BYTES)
    if data != expected:
        raise StoreError(f"{path}: is not what a run writes; {RESTORE}")


def _checked_offsets(array: ChunkedArray, length: int) -> int:
    """Return the last of an array's offsets; raises `StoreError` where they do not start at 0, or one decreases."""
    offsets = np.concatenate([np.zeros(1, np.int64), array.read(0, length)])
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if len(falls) or (length and offsets[1] != 0):
        at = int(falls[0]) if len(falls) else 0
        raise StoreError(f"{array.folder}: offset {at} is {offsets[at + 1]}, after {offsets[at]}; {RESTORE}")
    return int(offsets[-1])
