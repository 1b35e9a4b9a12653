"""The arrays of a run, `rollouts.zarr`: one group per table, one or more append-only arrays per column.

The attributes of the root group hold the layout version and the published row counts. They are rewritten last, by
one rename: elements beyond the published counts do not exist for a reader. The attributes of a group hold its columns.
The files depend on the rows only, not on time, randomness or the sizes of the appended blocks. Chunks have a fixed
length, so the tree never fragments: a column of n elements is one metadata file and n / (chunk length) chunks.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.flat import Flat, empty, join, split
from genrl_graph.arrow.schema import Leaf, leaves, schema_from_json, schema_json
from genrl_graph.errors import StoreError
from genrl_graph.store.chunks import ChunkedArray
from genrl_graph.store.durable import PARTIAL, failed, sync_folder, write_file
from genrl_graph.store.renamed import RENAMED

LAYOUT = 3
SCHEMA = 1  # the version of the columns of a group
ROWS_A_READ = 65_536
WRITERS = 8  # threads that wait for the disk; each holds one chunk twice, raw and compressed
ATTRIBUTE = "genrl_graph"
METADATA = "zarr.json"


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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new_names: set[Path] = set()  # folders with files written since the last `publish`
        self._levels: dict[str, dict[str, int]] = {}  # published elements by group and level
        self._next: dict[str, dict[str, int]] = {}  # the same after the next `publish`
        self.layout = LAYOUT
        self.counts = self.published()

    @classmethod
    def create(cls, folder: Path) -> "RolloutArrays":
        """Create an empty tree in a new or empty folder."""
        folder.mkdir(exist_ok=True)
        write_file(folder / METADATA, root_file({}))
        sync_folder(folder)
        return cls(folder)

    def published(self) -> dict[str, int]:
        """Read the published row counts from the disk, by group, in the order in which the groups appeared."""
        root = self._attributes("")
        layout = root.get("layout")
        if not isinstance(layout, int) or not isinstance(root.get("rows"), dict):
            raise StoreError(f"{self.folder}: no layout version in {METADATA}; this is not the store of a run")
        if layout > LAYOUT:
            raise StoreError(f"{self.folder}: layout {layout} is newer than {LAYOUT}; upgrade genrl-graph")
        if layout not in RENAMED:
            raise StoreError(
                f"{self.folder}: layout {layout} is older than {min(RENAMED)}; open it with the version of genrl-graph "
                "that wrote it"
            )
        self.layout = layout
        return {str(group): int(rows) for group, rows in root["rows"].items()}

    def schema(self, group: str) -> pa.Schema:
        """Read the columns of a published group; raises `StoreError` where they are damaged or of a newer version."""
        path, attributes = self.folder / group / METADATA, self._attributes(group)
        version = attributes.get("schema_version")
        if isinstance(version, int) and version > SCHEMA:
            raise StoreError(f"{path}: schema version {version} is newer than {SCHEMA}; upgrade genrl-graph")
        try:
            return schema_from_json(attributes["columns"])
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path}: describes no columns; restore it from a copy") from error

    def array(self, group: str, leaf: Leaf) -> ChunkedArray:
        """Return one array of a group."""
        return ChunkedArray(self.folder / group / leaf.path, leaf)

    def levels(self, group: str) -> dict[str, int]:
        """Return the published number of elements of each level of a group (see `Leaf.level`), from its offsets."""
        levels = {"": self.counts.get(group, 0)}
        for leaf in leaves(self.schema(group)):
            if leaf.into is not None:
                rows = levels[leaf.level]
                levels[leaf.into] = int(self.array(group, leaf).read(rows, rows + 1)[0]) if levels[""] else 0
        return levels

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
        write_file(self.folder / METADATA, root_file(counts, self.layout))
        sync_folder(self.folder)
        self.counts = counts
        self._levels |= self._next
        self._next = {}

    def leftovers(self) -> Iterator[Path]:
        """Yield the half-written files that a crash left; nothing reads them."""
        yield from sorted(self.folder.rglob(f"*{PARTIAL}"))

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

        blocks = [join(schema, read, at, min(at + ROWS_A_READ, stop)) for at in range(start, stop, ROWS_A_READ)]
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

    def _write(self, path: Path, data: bytes) -> None:
        folder = path.parent
        if folder not in self._new_names:
            folder.mkdir(parents=True, exist_ok=True)
            self._new_names.add(folder)
        write_file(path, data)

    def _sync(self) -> None:
        """Sync the folders of all files written since the last call, so that their names are durable."""
        folders = {self.folder}
        for path in self._new_names:
            while path not in folders:
                folders.add(path)
                path = path.parent
        with ThreadPoolExecutor(WRITERS) as pool:
            for future in [pool.submit(sync_folder, folder) for folder in folders if folder.is_dir()]:
                future.result()
        self._new_names.clear()

    def _declare_columns(self, group: str, schema: pa.Schema) -> None:
        """Write the column types of a group without rows; remove arrays that a crash or an empty table left there."""
        for name in schema.names:
            if (self.folder / group / name).exists():
                shutil.rmtree(self.folder / group / name)
                self._new_names = {
                    path for path in self._new_names if not path.is_relative_to(self.folder / group / name)
                }
        self._write(
            self.folder / group / METADATA, group_file({"schema_version": SCHEMA, "columns": schema_json(schema)})
        )

    def _element_counts(self, group: str, schema: pa.Schema) -> dict[str, int]:
        if self.counts.get(group, 0) == 0:
            return {"": 0} | {leaf.into: 0 for leaf in leaves(schema) if leaf.into is not None}
        if group not in self._levels:
            self._levels[group] = self.levels(group)
        return self._levels[group]

    def _attributes(self, group: str) -> dict[str, Any]:
        path = self.folder / group / METADATA
        try:
            attributes = json.loads(path.read_bytes())["attributes"][ATTRIBUTE]
        except OSError as error:
            raise failed(path, "read", error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: is not what a run writes ({error!r}); restore it from a copy") from error
        return dict(attributes)


def group_file(attributes: Mapping[str, Any]) -> bytes:
    """Return the zarr metadata file of a group that carries `attributes` under our own key."""
    node = {"attributes": {ATTRIBUTE: attributes}, "zarr_format": 3, "node_type": "group"}
    return json.dumps(node, indent=2).encode()


def root_file(counts: Mapping[str, int], layout: int = LAYOUT) -> bytes:
    """Return the zarr metadata file of the root: layout version and published row counts."""
    return group_file({"layout": layout, "rows": counts})
