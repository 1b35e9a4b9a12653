"""The write-ahead log of a run: one record per committed step, on the disk before `append` returns.

A journal is a folder of segments. A segment is named by the position of its first record (records are counted from
the start of the run), so `00000042.wal` holds the 43rd. A record is framed as

    ff "GGW" | version u16 | 0 u16 | header bytes u32 | body bytes u64 | header JSON | Arrow IPC streams | blake2b

and the hash covers all that stands before it. A crash can tear the last record only: readers stop before a torn
tail, and opening for writing cuts it. A record that is broken although whole ones follow is damage, and an error.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from genrl_graph.durable import failed, sync_folder
from genrl_graph.errors import StoreError

MAGIC = b"\xffGGW"
VERSION = 1
HEAD = struct.Struct("<4sHHIQ")
HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Record:
    """What one step of one holder gave: facts (JSON) and, by name of the group, rows."""

    round: int
    node: str
    holder: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record in the journal: its position in the run, content hash (hex) and size in bytes."""

    position: int
    record: Record
    digest: str
    size: int


class Journal:
    """The journal of a run, open for appending; one writer at a time.

    `start` is the position of the next record where the folder holds none that comes later.
    Raises `StoreError` where a record is damaged or written by a newer version.
    """

    def __init__(self, folder: Path, *, start: int = 0) -> None:
        self.folder = folder
        self._file: BinaryIO | None = None
        self._path = folder
        self._size = 0
        self.end = start
        segments = _segments(folder)
        for at, first in enumerate(segments):
            found = first + self._recover(first, last=at == len(segments) - 1)
            self.end = max(start, found)
        if segments and found < start:
            self.close()

    def append(self, record: Record) -> str:
        """Commit one record; returns its content hash."""
        return self.append_many([record])[0]

    def append_many(self, records: Sequence[Record]) -> list[str]:
        """Commit records with one sync; returns their content hashes, which depend on the records only.

        Raises `StoreError` where the disk refuses; then none of them is in the journal.
        """
        return [entry.digest for entry in self.commit(records)]

    def commit(self, records: Sequence[Record]) -> list[Entry]:
        """`append_many` that returns positions and sizes too."""
        frames = [_frame(record) for record in records]
        if frames:
            self._write(b"".join(frames))
        entries = [
            Entry(self.end + at, record, frame[-HASH_BYTES:].hex(), len(frame))
            for at, (record, frame) in enumerate(zip(records, frames, strict=True))
        ]
        self.end += len(entries)
        return entries

    def __iter__(self) -> Iterator[Record]:
        return (entry.record for entry in entries(self.folder))

    def roll(self) -> int:
        """End the segment: the next record starts a new one, whose name is the position returned."""
        self.close()
        return self.end

    def drop_before(self, segment: int) -> None:
        """Remove the segments that end before the position of `segment`; one being written is kept."""
        segments = _segments(self.folder)
        for at, first in enumerate(segments):
            end = segments[at + 1] if at + 1 < len(segments) else self.end
            if end <= segment and not (self._file is not None and first == segments[-1]):
                _path(self.folder, first).unlink()

    def close(self) -> None:
        """Close the segment; appending opens a new one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: bytes) -> None:
        try:
            if self._file is None:
                self._path = _path(self.folder, self.end)
                self._file = self._path.open("wb", buffering=0)
                self._size = 0
                sync_folder(self.folder)
            self._append(self._file, data)
        except OSError as error:
            raise failed(self._path, "append to the journal", error) from error
        self._size += len(data)

    def _append(self, file: BinaryIO, data: bytes) -> None:
        self._cut(file)  # an append that was interrupted may have left bytes behind
        try:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError:
            self._cut(file)
            raise

    def _cut(self, file: BinaryIO) -> None:
        file.truncate(self._size)
        file.seek(self._size)

    def _recover(self, first: int, *, last: bool) -> int:
        """Count the records of a segment; open the last one behind its whole records."""
        path = _path(self.folder, first)
        ends = [end for _, _, end in _frames(path, last=last)]
        if last:
            self._path = path
            self._file = path.open("r+b", buffering=0)
            self._size = ends[-1] if ends else 0
            self._cut(self._file)
            os.fsync(self._file.fileno())
        return len(ends)


def entries(folder: Path, *, since: int | None = None) -> Iterator[Entry]:
    """The whole records of a journal, all or from a position on, in the order of commit; changes nothing.

    Raises `StoreError` for damage or a gap, `FileNotFoundError` where a writer dropped a segment meanwhile.
    """
    segments = _segments(folder)
    since = (segments or [0])[0] if since is None else since
    if segments and segments[0] > since:
        raise StoreError(f"{folder}: records {since} to {segments[0] - 1} are missing; restore the folder from a copy")
    for at, first in enumerate(segments):
        last = at == len(segments) - 1
        if not last and segments[at + 1] <= since:
            continue
        position, begin = first, 0
        for record, digest, end in _frames(_path(folder, first), last=last):
            if position >= since:
                yield Entry(position, record, digest, end - begin)
            position, begin = position + 1, end
        if not last and position != segments[at + 1]:
            raise StoreError(f"{_path(folder, first)}: ends at record {position}, but {segments[at + 1]} comes next")


def _frames(path: Path, *, last: bool) -> Iterator[tuple[Record, str, int]]:
    """The records of a segment with their hashes and end offsets, up to a torn tail of the last segment."""
    data = memoryview(path.read_bytes())
    offset = 0
    while offset < len(data):
        _refuse_newer(data, offset, path)
        end = _frame_end(data, offset)
        if end is None:
            if last and not _any_frame_after(data, offset):
                return
            raise StoreError(f"{path}: record at byte {offset} is damaged; restore the file from a copy")
        yield *_parse(data, offset, end), end
        offset = end


def _frame_end(data: memoryview, offset: int) -> int | None:
    """Where the record at an offset ends, or None where there is no whole one."""
    if len(data) - offset < HEAD.size:
        return None
    magic, _, _, header, body = HEAD.unpack_from(data, offset)
    if magic != MAGIC:
        return None
    end: int = offset + HEAD.size + header + body + HASH_BYTES
    whole = end <= len(data) and _hash(data[offset : end - HASH_BYTES]) == data[end - HASH_BYTES : end]
    return end if whole else None


def _refuse_newer(data: memoryview, offset: int, path: Path) -> None:
    if len(data) - offset >= HEAD.size:
        magic, version, *_ = HEAD.unpack_from(data, offset)
        if magic == MAGIC and version > VERSION:
            raise StoreError(f"{path}: journal version {version} is newer than {VERSION}; upgrade genrl-graph")


def _any_frame_after(data: memoryview, offset: int) -> bool:
    raw = data.obj
    assert isinstance(raw, bytes)
    at = raw.find(MAGIC, offset + 1)
    while at >= 0:
        if _frame_end(data, at) is not None:
            return True
        at = raw.find(MAGIC, at + 1)
    return False


def _parse(data: memoryview, offset: int, end: int) -> tuple[Record, str]:
    _, _, _, header_bytes, _ = HEAD.unpack_from(data, offset)
    at = offset + HEAD.size + header_bytes
    header = json.loads(bytes(data[offset + HEAD.size : at]))
    tables: dict[str, pa.Table] = {}
    for name, size in header["tables"]:
        tables[name] = pa.ipc.open_stream(pa.py_buffer(data[at : at + size])).read_all()
        at += size
    record = Record(header["round"], header["node"], header["holder"], header["facts"], tables)
    return record, bytes(data[end - HASH_BYTES : end]).hex()


def _frame(record: Record) -> bytes:
    streams = {name: _stream(table) for name, table in record.tables.items()}
    values = {
        "round": record.round,
        "node": record.node,
        "holder": record.holder,
        "facts": record.facts,
        "tables": [[name, len(stream)] for name, stream in streams.items()],
    }
    try:
        header = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"{record.node}: round {record.round}: facts must be plain JSON values: {error}") from error
    body = b"".join(streams.values())
    content = b"".join([HEAD.pack(MAGIC, VERSION, 0, len(header), len(body)), header, body])
    return content + _hash(content)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


def _hash(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=HASH_BYTES).digest()


def _segments(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.wal"))


def _path(folder: Path, first: int) -> Path:
    return folder / f"{first:08d}.wal"
