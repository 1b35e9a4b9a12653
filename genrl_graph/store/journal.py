"""The write-ahead log of a run: one record per committed step, on the disk before `append` returns.

A journal is a folder of segment files. A segment is named by the position of its first record, counted from the start
of the run: `00000042.wal` begins with the 43rd record. A record has a JSON header and rows as Arrow IPC streams.

A crash can tear the last commit only. Readers stop before a torn commit, and opening the journal for writing removes
it. A broken record with a whole commit after it is not torn but damaged, and raises `StoreError`.
"""

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed, sync_folder, write_parts
from genrl_graph.store.journal_format import Bytes, RecordSpan, content_hash, pack, read_frames

IPC_OPTIONS = pa.ipc.IpcWriteOptions()


@dataclass(frozen=True, slots=True)
class Record:
    """A committed step of one holder: its facts (JSON) and its rows by name of the store group."""

    round: int
    node: str
    holder: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A record in the journal: its position in the run and its content hash (hex)."""

    position: int
    record: Record
    digest: str


class Journal:
    """The journal of a run, open for appending; one writer at a time.

    `start` is the position of the first record to read; segments before it are ignored.
    Raises `StoreError` where a record is damaged or written by a newer version, `OSError` where the disk refuses.
    """

    def __init__(self, folder: Path, *, start: int = 0) -> None:
        self.folder = folder
        self._handle: int | None = None
        self._path = folder
        self._size = 0
        self._torn = False
        self.end = start
        segments = _segments_since(_segments(folder), start)
        for at, first in enumerate(segments):
            last = at == len(segments) - 1
            ends = [frame.end for frame in read_frames(_path(folder, first), _read(folder, first), last=last)]
            self.end = first + len(ends)
            if last and self.end >= start:
                self._reopen_segment(first, ends[-1] if ends else 0)
        self.end = max(start, self.end)

    def append(self, record: Record) -> str:
        """Commit one record and return its content hash (hex)."""
        return self.append_many([record])[0]

    def append_many(self, records: Sequence[Record]) -> list[str]:
        """Commit records with one sync and return their content hashes (hex), which depend on the records only.

        Raises `StoreError` where the disk refuses; the journal then holds none of them.
        """
        framed = [pack(_encode(record), index=at, count=len(records)) for at, record in enumerate(records)]
        if framed:
            self._write([part for parts in framed for part in parts])
        self.end += len(framed)
        return [bytes(parts[-1]).hex() for parts in framed]

    @property
    def size(self) -> int:
        """The size of all segments on the disk, in bytes."""
        return sum(_path(self.folder, first).stat().st_size for first in _segments(self.folder))

    def __iter__(self) -> Iterator[Record]:
        return (entry.record for entry in entries(self.folder))

    def roll(self) -> int:
        """Close the segment and return the position of the next record, which begins a new segment."""
        self.close()
        return self.end

    def drop_before(self, segment: int) -> None:
        """Remove the segments whose records all come before position `segment`, except the one being written.

        The folder is not synced: a segment that reappears after a crash does no harm, because no reader needs it.
        """
        segments = _segments(self.folder)
        for at, first in enumerate(segments):
            end = segments[at + 1] if at + 1 < len(segments) else self.end
            if end <= segment and not (self._handle is not None and first == segments[-1]):
                _path(self.folder, first).unlink()

    def close(self) -> None:
        """Close the segment; the next append opens a new one."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)

    def _write(self, data: Sequence[Bytes]) -> None:
        try:
            if self._handle is None:
                self._begin_segment()
            assert self._handle is not None
            self._append(self._handle, data)
        except OSError as error:
            raise failed(self._path, "append to the journal", error) from error
        self._size += sum(map(len, data))

    def _begin_segment(self) -> None:
        """Create a new segment and sync its name before anything is written to it."""
        self._path = _path(self.folder, self.end)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            sync_folder(self.folder)
        except OSError:
            os.close(handle)
            raise
        self._handle, self._size, self._torn = handle, 0, False

    def _reopen_segment(self, first: int, size: int) -> None:
        """Open a segment for appending after its whole commits, `size` bytes, and remove a torn one."""
        self._path = _path(self.folder, first)
        self._handle, self._size = os.open(self._path, os.O_RDWR | os.O_CLOEXEC), size
        self._truncate(self._handle)
        os.fsync(self._handle)
        sync_folder(self.folder)

    def _append(self, handle: int, data: Sequence[Bytes]) -> None:
        if self._torn:  # an append that was interrupted or refused may have left bytes behind
            self._truncate(handle)
        self._torn = True
        try:
            write_parts(handle, data)
            os.fsync(handle)
        except OSError:
            self._truncate(handle)
            raise
        self._torn = False

    def _truncate(self, handle: int) -> None:
        os.ftruncate(handle, self._size)
        os.lseek(handle, self._size, os.SEEK_SET)


def entries(folder: Path, *, since: int | None = None) -> Iterator[JournalEntry]:
    """Yield the committed records of a journal in order of commit, all or those from position `since` on.

    Raises `StoreError` for damage or a gap, `FileNotFoundError` where a writer removed a segment meanwhile.
    """
    segments = _segments(folder)
    since = (segments or [0])[0] if since is None else since
    if segments and segments[0] > since:
        raise StoreError(f"{folder}: records {since} to {segments[0] - 1} are missing; restore the folder from a copy")
    segments = _segments_since(segments, since)
    for at, first in enumerate(segments):
        last = at == len(segments) - 1
        position, data = first, _read(folder, first)
        for frame in read_frames(_path(folder, first), data, last=last):
            if position >= since:
                yield _decode(data, frame, position)
            position += 1
        if not last and position != segments[at + 1]:
            raise StoreError(f"{_path(folder, first)}: ends at record {position}, but {segments[at + 1]} comes next")


def torn_tail(folder: Path, *, since: int) -> tuple[Path, int, int] | None:
    """Return the last segment, the byte at which its whole commits end and the number of bytes after it.

    None where no bytes follow the last whole commit.
    """
    segments = _segments_since(_segments(folder), since)
    if not segments:
        return None
    path, data = _path(folder, segments[-1]), _read(folder, segments[-1])
    end = max((frame.end for frame in read_frames(path, data, last=True)), default=0)
    return (path, end, len(data) - end) if end < len(data) else None


def digest_of(record: Record) -> str:
    """Return the content hash (hex) with which a record is committed; its tables must be in the stored form."""
    return content_hash(_encode(record)).hex()


def _segments_since(segments: list[int], since: int) -> list[int]:
    """Return the segments that hold records from position `since` on."""
    return [first for at, first in enumerate(segments) if at == len(segments) - 1 or segments[at + 1] > since]


def _read(folder: Path, first: int) -> memoryview:
    return memoryview(_path(folder, first).read_bytes())


def _decode(data: memoryview, frame: RecordSpan, position: int) -> JournalEntry:
    """Return the record in a span of a segment's bytes."""
    values = json.loads(bytes(data[frame.header : frame.body]))
    ends = list(itertools.accumulate((size for _, size in values["tables"]), initial=frame.body))
    tables = {
        name: pa.ipc.open_stream(pa.py_buffer(data[begin:end])).read_all()
        for (name, _), (begin, end) in zip(values["tables"], itertools.pairwise(ends), strict=True)
    }
    record = Record(values["round"], values["node"], values["holder"], values["facts"], tables)
    return JournalEntry(position, record, bytes(data[frame.hash : frame.end]).hex())


def _encode(record: Record) -> list[Bytes]:
    """Return the header of a record and the Arrow IPC streams of its tables."""
    streams = {name: _ipc_stream(table) for name, table in record.tables.items()}
    try:
        values = {
            "round": record.round,
            "node": record.node,
            "holder": record.holder,
            "facts": json.loads(json.dumps(record.facts)),  # makes all keys text, so that they sort as text
            "tables": [[name, len(stream)] for name, stream in streams.items()],
        }
        header = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"{record.node}: round {record.round}: facts must be plain JSON values: {error}") from error
    return [header, *streams.values()]


def _ipc_stream(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.RecordBatchStreamWriter(sink, table.schema, options=IPC_OPTIONS) as writer:
        writer.write_table(table.combine_chunks())
    return memoryview(sink.getvalue())


def _segments(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.wal") if path.stem.isdecimal())


def _path(folder: Path, first: int) -> Path:
    return folder / f"{first:08d}.wal"
