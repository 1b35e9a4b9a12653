"""The arrays of a run, `rollouts.zarr`: one group per table, one or more append-only arrays per column.

The attributes of the root group hold the layout version and the published row counts. They are rewritten last, by
one rename: elements beyond the published counts do not exist for a reader. The attributes of a group hold its columns.
The files depend on the rows only, not on time, randomness or the sizes of the appended blocks. Chunks have a fixed
length, so the tree never fragments: a column of n elements is one metadata file and n / (chunk length) chunks.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.flat import Flat, empty, join, split
from genrl_graph.arrow.schema import Leaf, leaves, schema_from_json, schema_json
from genrl_graph.errors import StoreError, named
from genrl_graph.store.chunks import ChunkedArray
from genrl_graph.store.group_names import (
    METADATA,
    STEPS,
    STEPS_SCHEMA,
    check_columns,
    check_distinct,
    group_path,
    leaf_path,
)
from genrl_graph.store.renamed import RENAMED
from genrl_graph.store.run_path import PARTIAL, RunPath, refused_by_name
from genrl_graph.store.strict_json import RESTORE, is_count, parse_object

LAYOUT = 3
SCHEMA = 1  # the version of the columns of a group
ROWS_A_READ = 65_536
BYTES_A_READ = 2**28  # of tensors, whose rows may be large
MAX_METADATA_BYTES = 16 * 2**20
WRITERS = 8  # threads that wait for the disk; each holds one chunk twice, raw and compressed
ATTRIBUTE = "genrl_graph"


@dataclass(frozen=True, slots=True)
class ArrayWrite:
    """Values to write to an array, starting at element `at`."""

    array: ChunkedArray
    values: Flat
    at: int


class RolloutArrays:
    """The arrays of one run. Appended rows count only after `publish`.

    A run keeps the layout it began with; see `renamed` for what they differ in. Raises `StoreError` where the folder is
    not the store of a run, or has a layout version that this program does not read.
    """

    def __init__(self, folder: Path | RunPath, *, salvages: bool = False) -> None:
        self.folder, self._salvages = RunPath.of(folder), salvages
        self._new_names: set[RunPath] = set()  # folders with files written since the last `publish`
        self._levels: dict[str, dict[str, int]] = {}  # published elements by group and level
        self._next: dict[str, dict[str, int]] = {}  # the same after the next `publish`
        self.layout = LAYOUT
        self.counts = self.published()

    @classmethod
    def create(cls, folder: Path | RunPath) -> "RolloutArrays":
        """Create an empty tree in a new or empty folder."""
        folder = RunPath.of(folder)
        folder.make_folder()
        (folder / METADATA).write(root_file({}))
        folder.sync()
        return cls(folder)

    def published(self) -> dict[str, int]:
        """Read the published row counts from the disk, by group, in the order in which the groups appeared."""
        root = self._attributes(self.folder)
        layout = root.get("layout")
        if not isinstance(layout, int) or not isinstance(root.get("rows"), dict) or isinstance(layout, bool):
            raise StoreError(f"{self.folder}: no layout version in {METADATA}; this is not the store of a run")
        if layout > LAYOUT:
            raise StoreError(f"{self.folder}: layout {layout} is newer than {LAYOUT}; upgrade genrl-graph")
        if layout not in RENAMED:
            raise StoreError(
                f"{self.folder}: layout {layout} is older than {min(RENAMED)}; open it with the version of genrl-graph "
                "that wrote it"
            )
        self.layout = layout
        for group, rows in root["rows"].items():
            group_path(self.folder, group)  # raises for a name that no group can have
            if not is_count(rows):
                raise StoreError(f"{self.folder / METADATA}: {str(rows)[:40]!r} rows of {group!r}; {RESTORE}")
        return dict(root["rows"])

    def schema(self, group: str) -> pa.Schema:
        """Read the columns of a published group; raises `StoreError` where they are damaged or of a newer version."""
        folder = group_path(self.folder, group)
        path, attributes = folder / METADATA, self._attributes(folder)
        version = attributes.get("schema_version")
        if isinstance(version, int) and version > SCHEMA:
            raise StoreError(f"{path}: schema version {version} is newer than {SCHEMA}; upgrade genrl-graph")
        columns = attributes.get("columns")
        if not isinstance(columns, dict):
            raise StoreError(f"{path}: describes no columns; restore it from a copy")
        with named(str(path)):
            schema = schema_from_json(columns)
            check_columns(schema, group)
        if group == STEPS and schema != STEPS_SCHEMA:
            raise StoreError(f"{path}: the columns of {STEPS!r} are not those that a run writes; {RESTORE}")
        return schema

    def array(self, group: str, leaf: Leaf) -> ChunkedArray:
        """Return one array of a group."""
        return ChunkedArray(leaf_path(group_path(self.folder, group), leaf.path), leaf, self._salvages)

    def check_names(self) -> None:
        """Raise `StoreError` where the published groups and columns are not paths of their own."""
        check_distinct({group: self.schema(group).names for group in self.counts})

    def levels(self, group: str) -> dict[str, int]:
        """Return the published number of elements of each level of a group (see `Leaf.level`), from its offsets."""
        levels = {"": self.counts.get(group, 0)}
        for leaf in leaves(self.schema(group)):
            if leaf.into is not None:
                rows = levels[leaf.level]
                levels[leaf.into] = int(self.array(group, leaf).read(rows, rows + 1)[0]) if levels[""] else 0
        return levels

    def require_room(self, group: str, table: pa.Table) -> None:
        """Raise `StoreError` where the texts of a table are too long to be appended to the published rows."""
        before, parts = self._element_counts(group, table.schema), split(table)
        for leaf in leaves(table.schema):
            if leaf.dtype == "string":
                self.array(group, leaf).require_room(parts[leaf.path], before[leaf.level])

    def append(self, tables: Mapping[str, pa.Table]) -> None:
        """Write rows after the published ones; readers see them after `publish`.

        Raises `OSError` where the disk refuses; a second call then writes the same places again.
        """
        with ThreadPoolExecutor(WRITERS) as pool:
            for group, table in tables.items():
                for future in [pool.submit(self._write_array, write) for write in self._writes_of(group, table)]:
                    future.result()

    def publish(self) -> None:
        """Sync the appended rows to the disk, then publish the new row counts in one rename."""
        counts = self.counts | {group: levels[""] for group, levels in self._next.items()}
        self._sync()
        (self.folder / METADATA).write(root_file(counts, self.layout))
        self.folder.sync()
        self.counts = counts
        self._levels |= self._next
        self._next = {}

    def leftovers(self) -> Iterator[RunPath]:
        """Yield the half-written files that a crash left; nothing reads them."""
        yield from (path for path in self.folder.walk() if path.name.endswith(PARTIAL))

    def read(self, group: str, start: int, stop: int, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the published rows from start to stop, with all columns or only those named.

        Raises `StoreError` where a chunk is missing or damaged.
        """
        schema = self.schema(group)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        arrays = {leaf.path: self.array(group, leaf) for leaf in leaves(schema)}

        def read(path: str, first: int, last: int) -> Flat:
            return arrays[path].read(first, last)

        step = rows_a_read(schema)
        blocks = [join(schema, read, at, min(at + step, stop)) for at in range(start, stop, step)]
        return pa.concat_tables(blocks) if blocks else empty(schema)

    def _writes_of(self, group: str, table: pa.Table) -> Iterator[ArrayWrite]:
        """Yield one write per flat array of a table; a group without published rows is declared again."""
        rows = self.counts.get(group, 0)
        if rows == 0:
            self._declare_columns(group, table.schema)
        before = self._element_counts(group, table.schema)
        after = before | {"": rows + table.num_rows}
        parts = split(table)
        for leaf in leaves(table.schema):
            values, at = parts[leaf.path], before[leaf.level]
            if leaf.into is not None:
                start = before[leaf.into]
                after[leaf.into] = start + (int(values[-1]) if len(values) else 0)
                values, at = values + start, at + 1
                if rows == 0:
                    values, at = np.concatenate([np.zeros(1, np.int64), values]), 0  # an array of offsets starts with 0
            if rows == 0 or len(values):
                yield ArrayWrite(self.array(group, leaf), values, at)
        self._next[group] = after

    def _write_array(self, write: ArrayWrite) -> None:
        for path, data in write.array.files(write.values, write.at):
            self._write(path, data)

    def _write(self, path: RunPath, data: bytes) -> None:
        folder = path.parent
        if folder not in self._new_names:
            folder.make_folder()
            self._new_names.add(folder)
        path.write(data)

    def _sync(self) -> None:
        """Sync the folders of all files written since the last call, so that their names are durable."""
        folders = {self.folder}
        for path in self._new_names:
            while path not in folders:
                folders.add(path)
                path = path.parent
        with ThreadPoolExecutor(WRITERS) as pool:
            for future in [pool.submit(folder.sync) for folder in folders if folder.is_folder()]:
                future.result()
        self._new_names.clear()

    def _declare_columns(self, group: str, schema: pa.Schema) -> None:
        """Write the column types of a group without rows; remove arrays that a crash or an empty table left there."""
        folder = group_path(self.folder, group)
        for name in schema.names:
            if (array := folder / name).is_folder():
                array.remove_folder()
                within = len(array.names)
                self._new_names = {path for path in self._new_names if path.names[:within] != array.names}
        self._write(folder / METADATA, group_file({"schema_version": SCHEMA, "columns": schema_json(schema)}))

    def _element_counts(self, group: str, schema: pa.Schema) -> dict[str, int]:
        if self.counts.get(group, 0) == 0:
            return {"": 0} | {leaf.into: 0 for leaf in leaves(schema) if leaf.into is not None}
        if group not in self._levels:
            self._levels[group] = self.levels(group)
        return self._levels[group]

    def _attributes(self, folder: RunPath) -> dict[str, Any]:
        path = folder / METADATA
        with refused_by_name(path, "read"):
            metadata = parse_object(path.read(MAX_METADATA_BYTES), path)
        attributes = metadata.get("attributes")
        ours = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
        if not isinstance(ours, dict):
            raise StoreError(f"{path}: is not what a run writes; restore it from a copy")
        return ours


def rows_a_read(schema: pa.Schema) -> int:
    """Return how many rows to read at a time: fewer where a row has a large tensor."""
    widths = [prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves(schema) if leaf.shape]
    return max(1, min(ROWS_A_READ, BYTES_A_READ // max([1, *widths])))


def group_file(attributes: Mapping[str, Any]) -> bytes:
    """Return the zarr metadata file of a group that carries `attributes` under our own key."""
    node = {"attributes": {ATTRIBUTE: attributes}, "zarr_format": 3, "node_type": "group"}
    return json.dumps(node, indent=2).encode()


def root_file(counts: Mapping[str, int], layout: int = LAYOUT) -> bytes:
    """Return the zarr metadata file of the root: layout version and published row counts."""
    return group_file({"layout": layout, "rows": counts})
