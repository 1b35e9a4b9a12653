"""Mutants of a run folder, for `fuzz_folder.py`: changed records under hashes that hold, or changed files."""

import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
from numcodecs.zstd import Zstd

from genrl_graph.errors import GenrlGraphError
from genrl_graph.records.recall import Recall
from genrl_graph.store.chunks import CHECKSUM
from genrl_graph.store.ipc_stream import encode_table
from genrl_graph.store.journal import Record
from genrl_graph.store.journal_format import pack, read_frames
from genrl_graph.store.manifest import MANIFEST, write_manifest
from genrl_graph.store.run_store import RunStore

NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 10**30, 0.5, float("inf"), float("nan"))
TEXTS = (
    "",
    ".",
    "..",
    "../../outside/precious",
    "/etc/passwd",
    "a/b",
    "zarr.json",
    "steps",
    "\0",
    "\n",
    "\x1b[2J",
    "é" * 300,
)
NAMES = (*TEXTS, "answer", "answer/id", "score", "peer0000", "round", "holder", "x.partial", "__x", "\ud800", "0")
Rng = random.Random


def mutate(run: Path, rng: Rng, outside: Path) -> list[str]:
    """Change a run in place, in one to three ways, and return their names; some may have changed nothing."""
    done = []
    if rng.random() < 0.7:
        done.append(rewrite_records(run, rng))
    for _ in range(rng.choice([0, 1, 1, 1, 2]) if done else rng.choice([1, 1, 2, 3])):
        change = rng.choice(FILE_CHANGES)
        try:
            done.append(f"{change.__name__}{change(run, rng, outside) or ''}")
        except (OSError, ValueError, GenrlGraphError, LookupError) as error:  # an earlier change was in the way
            done.append(f"no {change.__name__} ({type(error).__name__})")
    return done


def rewrite_records(run: Path, rng: Rng) -> str:
    """Write the run anew with changed records: some rounds in arrays, the others in the journal."""
    store = RunStore.open(run)
    records = records_of(store)
    done = []
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        change = rng.choice(RECORD_CHANGES)
        records = change(copy.copy(records), rng)
        done.append(change.__name__)
    flush_at = rng.randrange(len(records) + 1)
    new = run.with_name("new")
    try:
        with RunStore.create(new, store.graph_yaml, store.versions) as written:
            for at, record in enumerate(records):
                if at == flush_at:
                    written.flush()
                try:
                    written.commit([record])
                except (GenrlGraphError, pa.ArrowException, TypeError, ValueError):
                    done.append("refused")  # no writer of ours would write it
            shutil.copytree(new, run.with_name("copy"))  # before the rest moves to the arrays
    finally:
        shutil.rmtree(new)
    for name in ("journal", "rollouts.zarr"):
        shutil.rmtree(run / name)
        shutil.move(run.with_name("copy") / name, run / name)
    shutil.rmtree(run.with_name("copy"))
    return "records: " + " ".join(done)


def records_of(store: RunStore) -> list[Record]:
    """Return all records of a run."""
    recall, records = Recall(store, last=10**6), []
    for step in store.steps().select(["round", "node", "holder"]).to_pylist():
        recorded = recall(step["round"], step["node"], step["holder"])
        assert recorded is not None
        records.append(Record(step["round"], step["node"], step["holder"], dict(recorded.facts), dict(recorded.tables)))
    return records


def change_value(records: list[Record], rng: Rng) -> list[Record]:
    """Change a value of a column, its type kept."""
    return _with_table(records, rng, lambda table: _change_column(table, rng, keep_type=True))


def change_type(records: list[Record], rng: Rng) -> list[Record]:
    """Give a column other values, in every record of the group."""
    at = rng.randrange(len(records))
    if not records[at].tables:
        return records
    group = rng.choice(list(records[at].tables))
    seed = rng.random()
    for number, record in enumerate(records):
        if group in record.tables:
            table = _change_column(record.tables[group], Rng(seed), keep_type=False)
            records[number] = _replace(record, tables={**record.tables, group: table})
    return records


def drop_column(records: list[Record], rng: Rng) -> list[Record]:
    """Drop or rename a column of a group everywhere."""
    at = rng.randrange(len(records))
    if not records[at].tables:
        return records
    group = rng.choice(list(records[at].tables))
    name, new = rng.choice(records[at].tables[group].column_names), rng.choice(NAMES)
    drop = rng.random() < 0.5
    for number, record in enumerate(records):
        if group in record.tables and name in record.tables[group].column_names:
            table = record.tables[group]
            columns = [new if column == name else column for column in table.column_names]
            changed = table.drop_columns([name]) if drop else _renamed(table, columns)
            records[number] = _replace(record, tables={**record.tables, group: changed})
    return records


def _renamed(table: pa.Table, columns: list[str]) -> pa.Table:
    try:
        return table.rename_columns(columns)
    except UnicodeEncodeError:
        return table


def slice_rows(records: list[Record], rng: Rng) -> list[Record]:
    """Drop, repeat or reorder rows."""

    def change(table: pa.Table) -> pa.Table:
        rows = (
            [rng.randrange(table.num_rows) for _ in range(rng.randrange(table.num_rows + 2))] if table.num_rows else []
        )
        return table.take(pa.array(rows, pa.int64()))

    return _with_table(records, rng, change)


def change_facts(records: list[Record], rng: Rng) -> list[Record]:
    """Change the facts of a record."""
    at = rng.randrange(len(records))
    records[at] = _replace(records[at], facts=_mutate_json(dict(records[at].facts), rng))
    return records


def change_origin(records: list[Record], rng: Rng) -> list[Record]:
    """Change the round, node or holder of a record."""
    at = rng.randrange(len(records))
    other = rng.choice(records)
    values = {
        "round": rng.choice([other.round, 0, 1, 2**31 - 1, 10**6, 9]),
        "node": rng.choice([other.node, "x", "eval/answer", "swarm/behind"]),
        "holder": rng.choice([other.holder, "peer0009", "..", "a b"]),
    }
    name = rng.choice(list(values))
    records[at] = _replace(records[at], **{name: values[name]})
    return records


def change_group(records: list[Record], rng: Rng) -> list[Record]:
    """Move a table to another group, or drop it."""
    at = rng.randrange(len(records))
    tables = dict(records[at].tables)
    if tables:
        name = rng.choice(list(tables))
        table = tables.pop(name)
        if rng.random() < 0.7:
            tables[rng.choice([*NAMES, f"{name}/_whole", "update/trained", "answer/failures", "credit"])] = table
        records[at] = _replace(records[at], tables=tables)
    return records


def move_record(records: list[Record], rng: Rng) -> list[Record]:
    """Drop, repeat or move a record."""
    record = records.pop(rng.randrange(len(records)))
    for _ in range(rng.choice([0, 1, 2])):
        records.insert(rng.randrange(len(records) + 1), record)
    return records


RECORD_CHANGES = (
    change_value,
    change_value,
    change_type,
    drop_column,
    slice_rows,
    change_facts,
    change_facts,
    change_origin,
    change_group,
    move_record,
)


def _with_table(records: list[Record], rng: Rng, change: Callable[[pa.Table], pa.Table]) -> list[Record]:
    at = rng.randrange(len(records))
    if records[at].tables:
        group = rng.choice(list(records[at].tables))
        tables = {**records[at].tables, group: change(records[at].tables[group])}
        records[at] = _replace(records[at], tables=tables)
    return records


def _replace(record: Record, **values: Any) -> Record:
    fields = {name: getattr(record, name) for name in ("round", "node", "holder", "facts", "tables")}
    return Record(**(fields | values))


def _change_column(table: pa.Table, rng: Rng, *, keep_type: bool) -> pa.Table:
    name = rng.choice(table.column_names)
    values = table.column(name).to_pylist()
    if values:
        at = rng.randrange(len(values))
        values[at] = _mutate_json(values[at], rng)
    else:
        values = []
    kind = table.schema.field(name).type
    if not keep_type:
        values = rng.choice(
            [
                [1.5] * len(values),
                ["x"] * len(values),
                [[[1]]] * len(values),
                [{"a": ["b"]}] * len(values),
                list(range(len(values))),
            ]
        )
        kind = None
    try:
        column = pa.array(values, kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return table
    return table.set_column(table.column_names.index(name), name, column)


def _mutate_json(value: Any, rng: Rng) -> Any:
    """Return a JSON value with a change somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        how = rng.randrange(8)
        rest = {name: item for name, item in value.items() if name != key}
        if how == 0:
            return rest
        if how == 1:
            return rest | {rng.choice(NAMES): value[key]}
        return {name: _mutate_json(item, rng) if name == key else item for name, item in value.items()}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        how = rng.randrange(6)
        if how == 0:
            return value[:at] + value[at + 1 :]
        if how == 1:
            return value[:at] + [value[at]] * 3 + value[at:]
        return [_mutate_json(item, rng) if number == at else item for number, item in enumerate(value)]
    if isinstance(value, bool | int | float) and rng.random() < 0.7:
        return rng.choice(NUMBERS)
    if isinstance(value, str) and rng.random() < 0.7:
        at = rng.randrange(len(value) + 1)
        return rng.choice([rng.choice(NAMES), value[:at], value[:at] + rng.choice(TEXTS) + value[at:]])
    return rng.choice([None, True, [], {}, "x", [[]], {"a": 1}, *NUMBERS, _deep()])


def _deep() -> Any:
    value: Any = 0
    for _ in range(80):
        value = [value]
    return value


def edit_journal(run: Path, rng: Rng, outside: Path) -> None:
    """Change the header or an Arrow stream of a record in the journal, under a head and a hash that hold."""
    path = rng.choice(sorted((run / "journal").glob("*.wal")))
    data = memoryview(path.read_bytes())
    frames = list(read_frames(path, data, last=True))
    chosen = rng.randrange(len(frames))
    written = bytearray()
    for number, frame in enumerate(frames):
        header, body = bytes(data[frame.header : frame.body]), bytes(data[frame.body : frame.hash])
        if number == chosen:
            header, body = _edit_record(header, body, rng)
        parts = pack([header, body], index=frame.index, count=frame.count)
        written += b"".join(parts)
    path.write_bytes(written)


def _edit_record(header: bytes, body: bytes, rng: Rng) -> tuple[bytes, bytes]:
    values = json.loads(header)
    how = rng.randrange(4)
    if how == 0 or not values["tables"]:
        return json.dumps(_mutate_json(values, rng)).encode(), body
    streams, begin = [], 0
    for name, size in values["tables"]:
        streams.append([name, body[begin : begin + size]])
        begin += size
    stream = rng.choice(streams)
    if how == 1:
        stream[1] = _flip(stream[1], rng)
    else:
        table = pa.ipc.open_stream(stream[1]).read_all()
        stream[1] = _hostile_stream(table, rng)
    values["tables"] = [[name, len(data)] for name, data in streams]
    return json.dumps(values).encode(), b"".join(data for _, data in streams)


def _hostile_stream(table: pa.Table, rng: Rng) -> bytes:
    how = rng.randrange(5)
    if how == 0:
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=rng.choice(["zstd", "lz4"]))
        with pa.RecordBatchStreamWriter(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())
    if how == 1:
        names = [rng.choice(NAMES[:-2]) if rng.random() < 0.2 else name for name in table.column_names]
        return bytes(encode_table(table.rename_columns(names)))
    if how == 2:
        columns = [column.dictionary_encode() if column.type == pa.string() else column for column in table.columns]
        return bytes(encode_table(pa.table(columns, table.column_names)))
    if how == 3:
        extra = rng.choice([pa.nulls(table.num_rows), pa.array([None] * table.num_rows, pa.int32())])
        return bytes(encode_table(table.append_column("extra", extra)))
    return bytes(encode_table(_change_column(table, rng, keep_type=False)))


def _flip(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if rng.random() < 0.5 and len(changed) >= 8:
            at = rng.randrange(len(changed) - 3) & ~3
            number = int(rng.choice([0, 1, 3, 7, 2**31 - 1, 2**32 - 1, 2**16, len(data)]))
            changed[at : at + 4] = number.to_bytes(4, "little")
        elif changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def edit_metadata(run: Path, rng: Rng, outside: Path) -> None:
    """Change a zarr.json."""
    _edit_json(rng.choice(sorted((run / "rollouts.zarr").rglob("zarr.json"))), rng)


def edit_chunk(run: Path, rng: Rng, outside: Path) -> None:
    """Change the bytes of a chunk, under a checksum that holds."""
    files = sorted(path for path in (run / "rollouts.zarr").rglob("*") if path.is_file() and path.name != "zarr.json")
    path = rng.choice(files)
    packed = path.read_bytes()[: -CHECKSUM.size]
    if rng.random() < 0.8:
        packed = bytes(Zstd(level=1).encode(_flip(bytes(Zstd().decode(packed)), rng)))
    else:
        packed = _flip(packed, rng)
    path.write_bytes(packed + CHECKSUM.pack(google_crc32c.value(packed)))


def edit_checkpoint(run: Path, rng: Rng, outside: Path) -> None:
    """Change a file of a checkpoint, most times under a manifest that holds."""
    folder = rng.choice(sorted((run / "checkpoints").iterdir()))
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if path.name == MANIFEST or (path.suffix == ".json" and rng.random() < 0.7):
        _edit_json(path, rng)
    elif rng.random() < 0.2:
        path.rename(path.with_name(rng.choice(["x", "model.safetensors", "..x"])))
    else:
        path.write_bytes(_flip(path.read_bytes(), rng))
    if path.name != MANIFEST and rng.random() < 0.8:
        write_manifest(folder)


def edit_graph(run: Path, rng: Rng, outside: Path) -> None:
    """Change graph.yaml: its versions, or a line of the graph."""
    path = run / "graph.yaml"
    first, versions, *graph = path.read_text().splitlines()
    if rng.random() < 0.5:
        versions = f"# versions: {json.dumps(_mutate_json(json.loads(versions.partition(': ')[2]), rng))}"
    else:
        at = rng.randrange(len(graph))
        how = rng.randrange(3)
        if how == 0:
            del graph[at]
        elif how == 1:
            graph[at] = graph[at].partition(":")[0] + ": " + json.dumps(rng.choice([*NUMBERS[:11], *TEXTS, [], {}]))
        else:
            graph[at] = graph[at].replace(rng.choice("{}:,01 "), rng.choice(TEXTS), 1)
    path.write_text("\n".join([first, versions, *graph]) + "\n", errors="replace")


def edit_metrics(run: Path, rng: Rng, outside: Path) -> None:
    """Change a line of metrics.jsonl."""
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    at = rng.randrange(len(lines))
    if rng.random() < 0.7:
        lines[at] = json.dumps(_mutate_json(json.loads(lines[at]), rng)).encode()
    else:
        lines[at] = _flip(lines[at], rng)
    path.write_bytes(b"\n".join(lines) + b"\n")


def replace_file(run: Path, rng: Rng, outside: Path) -> str:
    """Put a link, a pipe, a folder, nothing or a hole where a file or folder was."""
    paths = sorted(run.rglob("*"))
    path = rng.choice(paths if rng.random() < 0.5 else sorted(run.iterdir()))
    how = rng.choice(["link", "hard link", "pipe", "folder", "nothing", "empty", "hole", "new link", "outside link"])
    if how == "new link":
        path.with_name(rng.choice(["events", "profile.json", "wandb", "tracker_key", "x", "9.wal"])).symlink_to(outside)
        return f" {how}"
    if how == "outside link" and path.exists():
        shutil.move(path, outside / "moved")
        path.symlink_to(outside / "moved")
        return f" {how} {path.name}"
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if how == "link":
        path.symlink_to(rng.choice([str(outside), f"{outside}/precious", f"{outside}/new", "/dev/zero", ".."]))
    elif how == "hard link":
        os.link(outside / "precious", path)
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how in ("empty", "hole"):
        path.touch()
        os.truncate(path, 0 if how == "empty" else int(rng.choice([2**20, 2**30, 2**33])))
    return f" {how} {path.name}"


def _edit_json(path: Path, rng: Rng) -> None:
    path.write_text(json.dumps(_mutate_json(json.loads(path.read_bytes()), rng), indent=2))


FILE_CHANGES = (
    edit_journal,
    edit_journal,
    edit_metadata,
    edit_chunk,
    edit_checkpoint,
    edit_graph,
    edit_metrics,
    replace_file,
)
assert np  # numpy is loaded before a child limits its memory
