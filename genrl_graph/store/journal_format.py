"""Records as bytes in a file, framed so that a torn commit is told from damage.

A record is framed as

    head | header JSON | Arrow IPC streams | blake2b of header and streams

with a head of ff "GGW", version u16, index of the record in its commit u32, records of that commit u32, header bytes
u32, body bytes u64 and the CRC-32 of all this. A commit of several records counts as a whole or not at all.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from genrl_graph.errors import StoreError

MAGIC = b"\xffGGW"
VERSION = 2
HEAD = struct.Struct("<4sHIIIQ")
CRC = struct.Struct("<I")
HEAD_BYTES = HEAD.size + CRC.size
HASH_BYTES = 32

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class RecordSpan:
    """A whole record in a segment: where it begins, where its header, its body and its hash begin, where it ends."""

    begin: int
    header: int
    body: int
    hash: int
    end: int
    index: int
    count: int


def pack(content: Sequence[Bytes], *, index: int, count: int) -> list[Bytes]:
    """The parts of a record's bytes, given its header and its streams; the last is the hash."""
    header, *streams = content
    head = HEAD.pack(MAGIC, VERSION, index, count, len(header), sum(map(len, streams)))
    return [head, CRC.pack(zlib.crc32(head)), *content, content_hash(content)]


def content_hash(parts: Sequence[Bytes]) -> bytes:
    """The hash of a header and streams."""
    whole = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in parts:
        whole.update(part)
    return whole.digest()


def read_frames(path: Path, data: memoryview, *, last: bool) -> Iterator[RecordSpan]:
    """The records of a file, commit by commit; of the `last` file of a journal, up to a torn commit at its end.

    Raises `StoreError` for a record that is damaged or written by a newer version.
    """
    offset, commit = 0, list[RecordSpan]()
    while offset < len(data):
        _refuse_newer(data, offset, path)
        frame = _whole(data, offset)
        if frame is None or (frame.index, frame.count) != (len(commit), commit[0].count if commit else frame.count):
            if last and not _commit_after(data, offset):
                return
            raise StoreError(f"{path}: record at byte {offset} is damaged; restore the file from a copy")
        commit.append(frame)
        offset = frame.end
        if len(commit) == frame.count:
            yield from commit
            commit = []
    if commit and not last:
        raise StoreError(f"{path}: record at byte {len(data)} is missing; restore the file from a copy")


def _whole(data: memoryview, offset: int) -> RecordSpan | None:
    """The record at an offset, or None where there is no whole one."""
    header = offset + HEAD_BYTES
    if len(data) < header:
        return None
    magic, _, index, count, header_bytes, body_bytes = HEAD.unpack_from(data, offset)
    if magic != MAGIC or CRC.unpack_from(data, offset + HEAD.size)[0] != zlib.crc32(data[offset : offset + HEAD.size]):
        return None
    body = header + header_bytes
    hash_at = body + body_bytes
    end = hash_at + HASH_BYTES
    whole = end <= len(data) and content_hash([data[header:hash_at]]) == data[hash_at:end]
    return RecordSpan(offset, header, body, hash_at, end, index, count) if whole else None


def _refuse_newer(data: memoryview, offset: int, path: Path) -> None:
    if len(data) - offset >= HEAD.size:
        magic, version, *_ = HEAD.unpack_from(data, offset)
        if magic == MAGIC and version > VERSION:
            raise StoreError(f"{path}: journal version {version} is newer than {VERSION}; upgrade genrl-graph")


def _commit_after(data: memoryview, offset: int) -> bool:
    """Whether a commit begins behind an offset, so that what is broken there was whole once."""
    raw = data.obj
    assert isinstance(raw, bytes)
    at = raw.find(MAGIC, offset + 1)
    while at >= 0:
        frame = _whole(data, at)
        if frame is not None and frame.index == 0:
            return True
        at = raw.find(MAGIC, at + 1)
    return False
