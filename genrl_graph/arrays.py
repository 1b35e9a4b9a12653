"""The arrays of a run, `rollouts.zarr`: a table is a group, a column one or more append-only arrays in it.

The attributes of the root group hold the layout version and the published row counts; they are rewritten last, by
one rename, so whatever the arrays hold beyond the counts does not exist. The attributes of a group hold its columns.
Nothing in the tree depends on time, chance or on how the rows were cut into blocks.
"""

import asyncio
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from genrl_graph.columns import Flat, Leaf, empty, join, leaves, schema_from_json, schema_json, split
from genrl_graph.durable import failed, sync_folder, write_file
from genrl_graph.errors import StoreError

LAYOUT = 1
NUMBERS_A_CHUNK = 65_536
STRINGS_A_CHUNK = 4_096
ROWS_A_READ = 65_536
WRITERS = 8  # threads that wait for the disk
ATTRIBUTE = "genrl_graph"


class DurableStore(LocalStore):
    """A zarr store in a folder whose files are on the disk when they are written, and their names after `sync`."""

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._touched: set[Path] = set()

    async def set(self, key: str, value: Buffer) -> None:
        await asyncio.to_thread(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not (self.root / key).exists():
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        self.write(key, value.to_bytes())

    def write(self, key: str, data: bytes) -> None:
        """Write the bytes of one key."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
        self._touched.add(path.parent)

    def sync(self) -> None:
        """Make the names of all files written since the last call durable."""
        inside = {
            folder for path in self._touched for folder in (path, *path.parents) if folder.is_relative_to(self.root)
        }
        inside = {folder for folder in inside if folder.is_dir()}
        with ThreadPoolExecutor(WRITERS) as pool:
            for done in [pool.submit(sync_folder, folder) for folder in sorted(inside)]:
                done.result()
        self._touched.clear()


class RolloutArrays:
    """The arrays of one run; a writer calls `append` for each table and then `publish`.

    Raises `StoreError` where the folder is no such tree or of a newer layout.
    """

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        self.folder = folder
        self._store = DurableStore(folder, read_only=not writable)
        self._open: dict[str, zarr.Array[Any]] = {}
        self._levels: dict[str, dict[str, int]] = {}
        self._next: dict[str, dict[str, int]] = {}
        self.counts = self.published()

    @classmethod
    def create(cls, folder: Path) -> "RolloutArrays":
        """An empty tree in a folder that is new or empty."""
        folder.mkdir(exist_ok=True)
        store = DurableStore(folder)
        store.write("zarr.json", _group({"layout": LAYOUT, "rows": {}}))
        store.sync()
        return cls(folder, writable=True)

    def published(self) -> dict[str, int]:
        """The row counts that the tree holds now, by group, in the order in which the groups appeared."""
        root = self._attributes("")
        if not isinstance(root.get("layout"), int):
            raise StoreError(f"{self.folder}: no layout version in zarr.json; this is not the store of a run")
        if root["layout"] > LAYOUT:
            raise StoreError(f"{self.folder}: layout {root['layout']} is newer than {LAYOUT}; upgrade genrl-graph")
        return {str(group): int(rows) for group, rows in root["rows"].items()}

    def schema(self, group: str) -> pa.Schema:
        """The columns of a published group."""
        return schema_from_json(self._attributes(group)["columns"])

    def append(self, group: str, table: pa.Table) -> None:
        """Write rows behind the published ones; they count once they are published.

        Raises `OSError` where the disk refuses; calling again then writes the same places.
        """
        rows = self.counts.get(group, 0)
        if rows == 0:
            self._declare(group, table.schema)
        before = self._level_counts(group, table.schema, rows)
        parts = split(table)
        after = before | {"": rows + table.num_rows}
        puts: list[tuple[zarr.Array[Any], Flat, int]] = []
        for leaf in leaves(table.schema):
            values = parts[leaf.path]
            if leaf.into is not None:
                start = before[leaf.into]
                after[leaf.into] = start + (int(values[-1]) if len(values) else 0)
                values = values + start
            at = before[leaf.level] + (leaf.into is not None)
            path = f"{group}/{leaf.path}"
            if rows == 0:
                self._open[path] = self._create(path, leaf, at + len(values))
            if len(values):
                puts.append((self._array(path), values, at))
        try:
            with ThreadPoolExecutor(WRITERS) as pool:
                for done in [pool.submit(_put, *put) for put in puts]:
                    done.result()
        except OSError:
            self._open.clear()  # their shapes may be ahead of the disk
            raise
        self._next[group] = after

    def publish(self) -> None:
        """Make all appended rows count, in one rename, after they are on the disk."""
        counts = self.counts | {group: levels[""] for group, levels in self._next.items()}
        self._store.sync()
        self._store.write("zarr.json", _group({"layout": LAYOUT, "rows": counts}))
        self._store.sync()
        self.counts = counts
        self._levels |= self._next
        self._next = {}

    def truncate(self) -> None:
        """Cut what a crash left beyond the published counts, and files half written."""
        for path in sorted(self.folder.rglob("*.partial")):
            path.unlink()
        for group, rows in self.counts.items():
            schema = self.schema(group)
            levels = self._level_counts(group, schema, rows)
            for leaf in leaves(schema):
                array = self._array(f"{group}/{leaf.path}")
                length = levels[leaf.level] + (leaf.into is not None)
                if array.shape[0] < length:
                    raise StoreError(
                        f"{self.folder}/{array.path}: {array.shape[0]} of {length} elements; restore a copy"
                    )
                if array.shape[0] > length:
                    array.resize((length, *leaf.shape))
        self._store.sync()

    def read(self, group: str, start: int, stop: int, *, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Published rows from start to stop, of all columns or of those named."""
        schema = self.schema(group)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        arrays: dict[str, zarr.Array[Any]] = {}

        def read(path: str, first: int, last: int) -> Flat:
            if path not in arrays:
                arrays[path] = self._array(f"{group}/{path}", fresh=True)
            return np.asarray(arrays[path][first:last])

        blocks = [join(schema, read, at, min(at + ROWS_A_READ, stop)) for at in range(start, stop, ROWS_A_READ)]
        return pa.concat_tables(blocks) if blocks else empty(schema)

    def _declare(self, group: str, schema: pa.Schema) -> None:
        """Write the columns of a group without rows; what a crash or an empty table left of it goes."""
        for name in schema.names:
            if (self.folder / group / name).exists():
                shutil.rmtree(self.folder / group / name)
        self._store.write(f"{group}/zarr.json", _group({"schema_version": 1, "columns": schema_json(schema)}))

    def _level_counts(self, group: str, schema: pa.Schema, rows: int) -> dict[str, int]:
        """How many elements each level of a group has published, read from its offsets once."""
        if group not in self._levels or rows == 0:
            levels = {"": rows}
            for leaf in leaves(schema):
                if leaf.into is not None:
                    last = self._array(f"{group}/{leaf.path}")[levels[leaf.level]] if rows else 0
                    levels[leaf.into] = int(np.asarray(last))
            self._levels[group] = levels
        return self._levels[group]

    def _create(self, path: str, leaf: Leaf, length: int) -> "zarr.Array[Any]":
        size = max(1, int(np.prod(leaf.shape)))
        chunk = STRINGS_A_CHUNK if leaf.dtype == "string" else max(1, NUMBERS_A_CHUNK // size)
        return zarr.create_array(
            self._store,
            name=path,
            shape=(length, *leaf.shape),
            chunks=(chunk, *(max(1, extent) for extent in leaf.shape)),
            dtype=leaf.dtype,
            compressors=ZstdCodec(level=3),
        )

    def _array(self, path: str, *, fresh: bool = False) -> "zarr.Array[Any]":
        if fresh or path not in self._open:
            array = zarr.open_array(self._store, path=path, mode="r" if self._store.read_only else "r+")
            if fresh:
                return array
            self._open[path] = array
        return self._open[path]

    def _attributes(self, group: str) -> dict[str, Any]:
        path = self.folder / group / "zarr.json"
        try:
            found = json.loads(path.read_bytes()).get("attributes", {}).get(ATTRIBUTE, {})
        except OSError as error:
            raise failed(path, "read", error) from error
        except ValueError as error:
            raise StoreError(f"{path}: not JSON ({error}); restore it from a copy") from error
        return dict(found)


def _put(array: "zarr.Array[Any]", values: Flat, at: int) -> None:
    stop = at + len(values)
    if array.shape[0] != stop:
        array.resize((stop, *array.shape[1:]))
    array[at:stop] = values


def _group(attributes: Mapping[str, Any]) -> bytes:
    node = {"attributes": {ATTRIBUTE: attributes}, "zarr_format": 3, "node_type": "group"}
    return json.dumps(node, indent=2).encode()
