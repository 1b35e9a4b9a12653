"""The write-ahead log of a run: one record per committed step, on the disk before `append` returns.

A journal is a folder of segment files. A segment is named by the position of its first record, counted from the start
of the run: `00000042.wal` begins with the 43rd record. A record has a JSON header and rows as Arrow IPC streams.

A crash can tear the last commit only. Readers stop before a torn commit, and opening the journal for writing removes
it. A broken record with a whole commit after it is not torn but damaged, and raises `StoreError`.
"""

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed, write_parts
from genrl_graph.store.group_names import check_group
from genrl_graph.store.ipc_stream import decode_table, encode_table
from genrl_graph.store.journal_format import HASH_BYTES, Bytes, RecordSpan, content_hash, pack, read_frames
from genrl_graph.store.run_path import RunPath, check_name
from genrl_graph.store.strict_json import RESTORE, is_count, parse_object

MAX_SEGMENT_BYTES = 2**31
MAX_ROUND = 2**31 - 1
_SEGMENT = re.compile(r"([0-9]{8,18})\.wal")


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
    """A record in the journal: its position in the run, its content hash (hex), and where it ends in its segment."""

    position: int
    record: Record
    digest: str
    end: int = 0


class Journal:
    """The journal of a run, open for appending; one writer at a time.

    `start` is the position of the first record to read; segments before it are ignored.
    Raises `StoreError` where a record is damaged or written by a newer version, `OSError` where the disk refuses.
    """

    def __init__(self, folder: Path | RunPath, *, start: int = 0) -> None:
        self.folder = folder = RunPath.of(folder)
        self._handle: int | None = None
        self._path = folder
        self._size = 0
        self._torn = False
        self.end = start
        known = _segments_since(segments(folder), start)
        for at, first in enumerate(known):
            last = at == len(known) - 1
            ends = [
                frame.end for frame in read_frames(segment_path(folder, first).path, _read(folder, first), last=last)
            ]
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
        size = sum(len(part) for parts in framed for part in parts)
        if self._size + size > MAX_SEGMENT_BYTES:
            what = f"{records[0].node}: round {records[0].round}: a step of {size} bytes"
            raise StoreError(f"{what}; the journal takes {MAX_SEGMENT_BYTES} at most, so store fewer or smaller rows")
        if framed:
            self._write([part for parts in framed for part in parts])
        self.end += len(framed)
        return [bytes(parts[-1]).hex() for parts in framed]

    @property
    def size(self) -> int:
        """The size of all segments on the disk, in bytes."""
        return sum(segment_path(self.folder, first).status().st_size for first in segments(self.folder))

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
        known = segments(self.folder)
        for at, first in enumerate(known):
            end = known[at + 1] if at + 1 < len(known) else self.end
            if end <= segment and not (self._handle is not None and first == known[-1]):
                segment_path(self.folder, first).unlink()

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
            raise failed(self._path.path, "append to the journal", error) from error
        self._size += sum(map(len, data))

    def _begin_segment(self) -> None:
        """Create a new segment and sync its name before anything is written to it."""
        self._path = segment_path(self.folder, self.end)
        handle = self._path.create()
        try:
            self.folder.sync()
        except OSError:
            os.close(handle)
            raise
        self._handle, self._size, self._torn = handle, 0, False

    def _reopen_segment(self, first: int, size: int) -> None:
        """Open a segment for appending after its whole commits, `size` bytes, and remove a torn one."""
        self._path = segment_path(self.folder, first)
        self._handle, self._size = self._path.open(os.O_RDWR), size
        self._truncate(self._handle)
        os.fsync(self._handle)
        self.folder.sync()

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


def entries(folder: Path | RunPath, *, since: int | None = None) -> Iterator[JournalEntry]:
    """Yield the committed records of a journal in order of commit, all or those from position `since` on.

    Raises `StoreError` for damage or a gap, `FileNotFoundError` where a writer removed a segment meanwhile.
    """
    folder = RunPath.of(folder)
    known = segments(folder)
    since = (known or [0])[0] if since is None else since
    if known and known[0] > since:
        raise StoreError(f"{folder}: records {since} to {known[0] - 1} are missing; restore the folder from a copy")
    known = _segments_since(known, since)
    for at, first in enumerate(known):
        last = at == len(known) - 1
        position, data = first, _read(folder, first)
        path = segment_path(folder, first)
        for frame in read_frames(path.path, data, last=last):
            if position >= since:
                yield _decode(data, frame, position, f"{path}: record {position}")
            position += 1
        if not last and position != known[at + 1]:
            raise StoreError(f"{path}: ends at record {position}, but {known[at + 1]} comes next; {RESTORE}")


def entries_after(folder: RunPath, first: int, latest: JournalEntry) -> list[JournalEntry]:
    """Return the committed records that the last segment, which begins with record `first`, gained after `latest`.

    Raises `StoreError` for damage, and where `latest` is not the record that stands before them.
    """
    path, begin = segment_path(folder, first), latest.end - HASH_BYTES
    data = path.read(MAX_SEGMENT_BYTES, start=begin)
    if data[:HASH_BYTES].hex() != latest.digest:
        raise StoreError(f"{path}: byte {begin} has another record than before; read the run again")
    later, start = memoryview(data[HASH_BYTES:]), latest.position + 1
    frames = read_frames(path.path, later, last=True)
    return [_decode(later, frame, at, f"{path}: record {at}", latest.end) for at, frame in enumerate(frames, start)]


def torn_tail(folder: RunPath, *, since: int) -> tuple[RunPath, int, int] | None:
    """Return the last segment, the byte at which its whole commits end and the number of bytes after it.

    None where no bytes follow the last whole commit.
    """
    known = _segments_since(segments(folder), since)
    if not known:
        return None
    path, data = segment_path(folder, known[-1]), _read(folder, known[-1])
    end = max((frame.end for frame in read_frames(path.path, data, last=True)), default=0)
    return (path, end, len(data) - end) if end < len(data) else None


def segments(folder: RunPath) -> list[int]:
    """Return the position of the first record of each segment, sorted; none where git left out the empty folder."""
    if not folder.exists():
        return []
    matches = filter(None, map(_SEGMENT.fullmatch, folder.listing()))
    return sorted(int(match[1]) for match in matches if match[0] == segment_path(folder, int(match[1])).name)


def digest_of(record: Record) -> str:
    """Return the content hash (hex) with which a record is committed; its tables must be in the stored form."""
    return content_hash(_encode(record)).hex()


def check_origin(round: object, node: object, holder: object, where: str) -> None:
    """Raise `StoreError` where these cannot be the round, node and holder of a record."""
    if not is_count(round) or round > MAX_ROUND:  # type: ignore[operator]  # a count is an int
        raise StoreError(f"{where}: {str(round)[:40]!r} is no round, a whole number from 0 to {MAX_ROUND}; {RESTORE}")
    for name, value in (("node", node), ("holder", holder)):
        if not isinstance(value, str):
            raise StoreError(f"{where}: {str(value)[:40]!r} is no name of a {name}; {RESTORE}")
        for part in value.split("/") if name == "node" else (value,):
            check_name(part, where)


def _segments_since(known: list[int], since: int) -> list[int]:
    """Return the segments that hold records from position `since` on."""
    return [first for at, first in enumerate(known) if at == len(known) - 1 or known[at + 1] > since]


def _read(folder: RunPath, first: int) -> memoryview:
    return memoryview(segment_path(folder, first).read(MAX_SEGMENT_BYTES))


def _decode(data: memoryview, frame: RecordSpan, position: int, where: str, base: int = 0) -> JournalEntry:
    """Return the record in a span of a segment's bytes from `base` on; raises `StoreError` for one of no run."""
    values = parse_object(bytes(data[frame.header : frame.body]), where)
    check_origin(values.get("round"), values.get("node"), values.get("holder"), where)
    facts, sizes = values.get("facts"), _sizes(values.get("tables"), frame.hash - frame.body, where)
    if not isinstance(facts, dict):
        raise StoreError(f"{where}: its facts are {type(facts).__name__}, not a JSON object; {RESTORE}")
    ends = list(itertools.accumulate((size for _, size in sizes), initial=frame.body))
    tables: dict[str, pa.Table] = {}
    for (name, _), (begin, end) in zip(sizes, itertools.pairwise(ends), strict=True):
        check_group(name)
        tables[name] = decode_table(data[begin:end], f"{where}: {name}")
    record = Record(values["round"], values["node"], values["holder"], facts, tables)
    return JournalEntry(position, record, bytes(data[frame.hash : frame.end]).hex(), base + frame.end)


def _sizes(tables: Any, total: int, where: str) -> list[tuple[str, int]]:
    """Return the names and sizes of the tables in a record's body of `total` bytes, from its header."""
    pairs = tables if isinstance(tables, list) else [tables]
    sizes = [(pair[0], pair[1]) for pair in pairs if isinstance(pair, list) and len(pair) == 2]
    typed = all(isinstance(name, str) and is_count(size) for name, size in sizes)
    if typed and len(pairs) == len(sizes) == len(dict(sizes)) and sum(size for _, size in sizes) == total:
        return sizes
    raise StoreError(f"{where}: its tables are not named with their sizes, {total} bytes in all; {RESTORE}")


def _encode(record: Record) -> list[Bytes]:
    """Return the header of a record and the Arrow IPC streams of its tables."""
    streams = {name: encode_table(table) for name, table in record.tables.items()}
    try:
        values = {
            "round": record.round,
            "node": record.node,
            "holder": record.holder,
            "facts": json.loads(json.dumps(record.facts)),  # makes all keys text, so that they sort as text
            "tables": [[name, len(stream)] for name, stream in streams.items()],
        }
        header = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
        if not isinstance(parse_object(header, record.node)["facts"], dict):  # what is committed must be readable
            raise TypeError(f"{type(record.facts).__name__} is not a mapping")
    except (TypeError, ValueError) as error:
        raise StoreError(f"{record.node}: round {record.round}: facts must be plain JSON values: {error}") from error
    return [header, *streams.values()]


def segment_path(folder: RunPath, first: int) -> RunPath:
    """Return the path of the segment that begins with record `first`."""
    return folder / f"{first:08d}.wal"
