"""The arrays of a run, `rollouts.zarr`: a table is a group, a column one or more append-only arrays in it.

The attributes of the root group hold the layout version and the published row counts; they are rewritten last, by
one rename, so whatever the arrays hold beyond the counts does not exist. The attributes of a group hold its columns.
Nothing in the tree depends on time, chance or on how the rows were cut into blocks. Chunks are of fixed length, so
the tree never fragments: a column of n elements is one file of metadata and n / (chunk length) chunks.
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

LAYOUT = 2
SCHEMA = 1  # the version of the columns of a group
ROWS_A_READ = 65_536
WRITERS = 8  # threads that wait for the disk; each holds a chunk as it is and as it is written
ATTRIBUTE = "genrl_graph"
METADATA = "zarr.json"


@dataclass(frozen=True, slots=True)
class ArrayWrite:
    """Values that come to stand in an array from one element on."""

    array: ChunkedArray
    values: Flat
    at: int


class RolloutArrays:
    """The arrays of one run; a writer calls `append` and then `publish`, or neither counts.

    Raises `StoreError` where the folder is no such tree or of another layout.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._touched: set[Path] = set()
        self._levels: dict[str, dict[str, int]] = {}
        self._next: dict[str, dict[str, int]] = {}
        self.counts = self.published()

    @classmethod
    def create(cls, folder: Path) -> "RolloutArrays":
        """An empty tree in a folder that is new or empty."""
        folder.mkdir(exist_ok=True)
        write_file(folder / METADATA, root_file({}))
        sync_folder(folder)
        return cls(folder)

    def published(self) -> dict[str, int]:
        """The row counts that the tree holds now, by group, in the order in which the groups appeared."""
        root = self._attributes("")
        layout = root.get("layout")
        if not isinstance(layout, int) or not isinstance(root.get("rows"), dict):
            raise StoreError(f"{self.folder}: no layout version in {METADATA}; this is not the store of a run")
        if layout > LAYOUT:
            raise StoreError(f"{self.folder}: layout {layout} is newer than {LAYOUT}; upgrade genrl-graph")
        if layout < LAYOUT:
            raise StoreError(f"{self.folder}: layout {layout} is older than {LAYOUT}; open it with what wrote it")
        return {str(group): int(rows) for group, rows in root["rows"].items()}

    def schema(self, group: str) -> pa.Schema:
        """The columns of a published group; raises `StoreError` where they are damaged or of a newer version."""
        path, attributes = self.folder / group / METADATA, self._attributes(group)
        version = attributes.get("schema_version")
        if isinstance(version, int) and version > SCHEMA:
            raise StoreError(f"{path}: schema version {version} is newer than {SCHEMA}; upgrade genrl-graph")
        try:
            return schema_from_json(attributes["columns"])
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path}: describes no columns; restore it from a copy") from error

    def array(self, group: str, leaf: Leaf) -> ChunkedArray:
        """One array of a group."""
        return ChunkedArray(self.folder / group / leaf.path, leaf)

    def levels(self, group: str) -> dict[str, int]:
        """How many elements each level of a group has published, as its offsets say."""
        levels = {"": self.counts.get(group, 0)}
        for leaf in leaves(self.schema(group)):
            if leaf.into is not None:
                rows = levels[leaf.level]
                levels[leaf.into] = int(self.array(group, leaf).read(rows, rows + 1)[0]) if levels[""] else 0
        return levels

    def append(self, tables: Mapping[str, pa.Table]) -> None:
        """Write rows behind the published ones; they count once they are published.

        Raises `OSError` where the disk refuses; calling again then writes the same places.
        """
        with ThreadPoolExecutor(WRITERS) as pool:
            for group, table in tables.items():
                for done in [pool.submit(self._put, put) for put in self._puts(group, table)]:
                    done.result()

    def publish(self) -> None:
        """Make all appended rows count, in one rename, after they are on the disk."""
        counts = self.counts | {group: levels[""] for group, levels in self._next.items()}
        self._sync()
        write_file(self.folder / METADATA, root_file(counts))
        sync_folder(self.folder)
        self.counts = counts
        self._levels |= self._next
        self._next = {}

    def leftovers(self) -> Iterator[Path]:
        """Files half written that a crash left; they mean nothing."""
        yield from sorted(self.folder.rglob(f"*{PARTIAL}"))

    def read(self, group: str, start: int, stop: int, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Published rows from start to stop, of all columns or of those named.

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

    def _puts(self, group: str, table: pa.Table) -> Iterator[ArrayWrite]:
        """Where the flat arrays of a table go; a group without rows is declared anew."""
        rows = self.counts.get(group, 0)
        if rows == 0:
            self._declare(group, table.schema)
        before = self._level_counts(group, table.schema)
        after = before | {"": rows + table.num_rows}
        parts = split(table)
        for leaf in leaves(table.schema):
            values, at = parts[leaf.path], before[leaf.level]
            if leaf.into is not None:
                start = before[leaf.into]
                after[leaf.into] = start + (int(values[-1]) if len(values) else 0)
                values, at = values + start, at + 1
                if rows == 0:
                    values, at = _with_zero(values), 0
            if rows == 0 or len(values):
                yield ArrayWrite(self.array(group, leaf), values, at)
        self._next[group] = after

    def _put(self, put: ArrayWrite) -> None:
        for path, data in put.array.files(put.values, put.at):
            self._write(path, data)

    def _write(self, path: Path, data: bytes) -> None:
        folder = path.parent
        if folder not in self._touched:
            folder.mkdir(parents=True, exist_ok=True)
            self._touched.add(folder)
        write_file(path, data)

    def _sync(self) -> None:
        """Make the names of all files written since the last call durable."""
        folders = {self.folder}
        for path in self._touched:
            while path not in folders:
                folders.add(path)
                path = path.parent
        with ThreadPoolExecutor(WRITERS) as pool:
            for done in [pool.submit(sync_folder, folder) for folder in folders if folder.is_dir()]:
                done.result()
        self._touched.clear()

    def _declare(self, group: str, schema: pa.Schema) -> None:
        """Write the columns of a group without rows; what a crash or an empty table left of it goes."""
        for name in schema.names:
            if (self.folder / group / name).exists():
                shutil.rmtree(self.folder / group / name)
                self._touched = {path for path in self._touched if not path.is_relative_to(self.folder / group / name)}
        self._write(
            self.folder / group / METADATA, group_file({"schema_version": SCHEMA, "columns": schema_json(schema)})
        )

    def _level_counts(self, group: str, schema: pa.Schema) -> dict[str, int]:
        if self.counts.get(group, 0) == 0:
            return {"": 0} | {leaf.into: 0 for leaf in leaves(schema) if leaf.into is not None}
        if group not in self._levels:
            self._levels[group] = self.levels(group)
        return self._levels[group]

    def _attributes(self, group: str) -> dict[str, Any]:
        path = self.folder / group / METADATA
        try:
            found = json.loads(path.read_bytes())["attributes"][ATTRIBUTE]
        except OSError as error:
            raise failed(path, "read", error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: is not what a run writes ({error!r}); restore it from a copy") from error
        return dict(found)


def group_file(attributes: Mapping[str, Any]) -> bytes:
    """The metadata of a group with attributes of ours."""
    node = {"attributes": {ATTRIBUTE: attributes}, "zarr_format": 3, "node_type": "group"}
    return json.dumps(node, indent=2).encode()


def root_file(counts: Mapping[str, int]) -> bytes:
    """The metadata of the tree: layout and published row counts."""
    return group_file({"layout": LAYOUT, "rows": counts})


def _with_zero(ends: Flat) -> Flat:
    return np.concatenate([np.zeros(1, np.int64), ends])
