"""Export the rows of a node to files that pandas, pyarrow and `datasets` read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from genrl_graph.errors import ParamError, StoreError
from genrl_graph.records.stored_run import Rounds, StoredRun
from genrl_graph.store.durable import failed, remove_draft


def export_rows(run: StoredRun, node: str, out: Path, *, rounds: Rounds = None, holder: str | None = None) -> int:
    """Write the joined rows of a node, with `round` and `holder`, one block of rounds at a time; return their number.

    `out` ends in .parquet, .jsonl or .csv, or is a new folder, which gets one Parquet file per block. Tensors become
    nested lists; in CSV, lists are JSON. `out` appears when it is complete. Raises `ParamError` for any other ending,
    `StoreError` where `out` exists or cannot be written.
    """
    if out.suffix not in _WRITERS:
        endings = ", ".join(ending for ending in _WRITERS if ending)
        raise ParamError(f"-o {out}: cannot write {out.suffix}; end it in {endings}, or name a folder without a dot")
    if out.exists():
        raise StoreError(f"{out}: exists already; name another file or folder")
    draft = out.with_name(f".{out.name}.partial")
    blocks = _uniform_blocks(run, node, rounds, holder)
    write = _WRITERS[out.suffix]
    remove_draft(draft)  # of a process that was killed
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        count = write(draft, blocks)
        draft.rename(out)
    except BaseException as error:
        remove_draft(draft)
        if isinstance(error, OSError):
            raise failed(out, "write the rows", error) from error
        raise
    return count


def _uniform_blocks(run: StoredRun, node: str, rounds: Rounds, holder: str | None) -> Iterator[pa.Table]:
    """Yield the blocks, checked to have the same columns; without any rows, one empty block of the declared columns."""
    schema: pa.Schema | None = None
    for block in run.blocks(node, rounds, holder=holder):
        table = pa.table({name: _tensors_to_lists(block.column(name)) for name in block.column_names})
        if schema is None:
            schema = table.schema
        if table.schema != schema:
            other = sorted(set(table.column_names) ^ set(schema.names)) or ["the order or type of columns"]
            first = table.column("round")[0].as_py()
            raise StoreError(f"{run.folder}: {node} has other columns from round {first} on ({', '.join(other)})")
        yield table
    if schema is None:
        frame = run.frame(node, rounds, holder=holder)
        yield pa.table({name: _tensors_to_lists(frame.table.column(name)) for name in frame.table.column_names})


def _tensors_to_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of tensors as nested lists, any other column as it is."""
    if not isinstance(column.type, pa.FixedShapeTensorType):
        return column
    flat = column.combine_chunks().storage
    values: pa.Array = flat.flatten()
    for extent in reversed(column.type.shape):
        ends = pa.array(range(0, len(values) + 1, extent), pa.int32()) if extent else pa.array([0], pa.int32())
        values = pa.ListArray.from_arrays(ends, values)
    return pa.chunked_array([values])


def _write_parquet(path: Path, blocks: Iterator[pa.Table]) -> int:
    first = next(blocks)
    count = int(first.num_rows)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for block in blocks:
            writer.write_table(block)
            count += block.num_rows
    return count


def _write_folder(path: Path, blocks: Iterator[pa.Table]) -> int:
    count = 0
    path.mkdir()
    for number, block in enumerate(blocks):
        pq.write_table(block, path / f"rows-{number:05d}.parquet", compression="zstd")
        count += block.num_rows
    return count


def _write_lines(path: Path, blocks: Iterator[pa.Table]) -> int:
    """Write one JSON object per row; NaN and infinity, which JSON does not have, become null."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for block in blocks:
            for row in block.to_pylist():
                file.write(json.dumps(_finite(row), ensure_ascii=False) + "\n")
            count += block.num_rows
    return count


def _write_csv(path: Path, blocks: Iterator[pa.Table]) -> int:
    """Write a header and one line per row; null is an empty cell, an empty text `""`."""
    first = next(blocks)
    count = int(first.num_rows)
    with csv.CSVWriter(path, _flat(first).schema) as writer:
        writer.write_table(_flat(first))
        for block in blocks:
            writer.write_table(_flat(block))
            count += block.num_rows
    return count


def _flat(block: pa.Table) -> pa.Table:
    """Return a table whose nested columns are JSON, which CSV has no other form for."""
    return pa.table({name: _as_text(block.column(name)) for name in block.column_names})


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_nested(column.type):
        return column
    values = (None if value is None else json.dumps(_finite(value), ensure_ascii=False) for value in column.to_pylist())
    return pa.chunked_array([pa.array(values, pa.string())])


_WRITERS = {".parquet": _write_parquet, ".jsonl": _write_lines, ".csv": _write_csv, "": _write_folder}


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
