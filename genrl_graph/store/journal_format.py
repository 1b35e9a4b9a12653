"""The byte format of journal records, in which a torn commit can be told from damage.

A record is framed as

    head | header JSON | Arrow IPC streams | blake2b of header and streams

The head is ff "GGW", version u16, index of the record in its commit u32, records of that commit u32, header bytes u32,
body bytes u64, and the CRC-32 of all this. Readers take all records of a commit or none.
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
    """The byte offsets of a whole record in a segment, and its place `index` among the `count` of its commit."""

    begin: int
    header: int
    body: int
    hash: int
    end: int
    index: int
    count: int


def pack(content: Sequence[Bytes], *, index: int, count: int) -> list[Bytes]:
    """Return the bytes of a record, in parts, from its header and streams; the last part is the content hash."""
    header, *streams = content
    head = HEAD.pack(MAGIC, VERSION, index, count, len(header), sum(map(len, streams)))
    return [head, CRC.pack(zlib.crc32(head)), *content, content_hash(content)]


def content_hash(parts: Sequence[Bytes]) -> bytes:
    """Return the BLAKE2b hash of a header and streams."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def read_frames(path: Path, data: memoryview, *, last: bool) -> Iterator[RecordSpan]:
    """Yield the records of a segment, commit by commit.

    Only the `last` segment of a journal may end with a torn commit; the records of that one are left out. Raises
    `StoreError` for a record that is damaged or written by a newer version.
    """
    offset, commit = 0, list[RecordSpan]()
    while offset < len(data):
        refuse_newer(data[offset : offset + HEAD_BYTES], path)
        frame = _record_at(data, offset)
        if frame is None or (frame.index, frame.count) != (len(commit), commit[0].count if commit else frame.count):
            if last and not _has_commit_after(data, offset):
                return
            raise StoreError(f"{path}: record at byte {offset} is damaged; restore the file from a copy")
        commit.append(frame)
        offset = frame.end
        if len(commit) == frame.count:
            yield from commit
            commit = []
    if commit and not last:
        raise StoreError(f"{path}: record at byte {len(data)} is missing; restore the file from a copy")


def _record_at(data: memoryview, offset: int) -> RecordSpan | None:
    """Return the record at an offset, None where no whole and intact record begins there."""
    frame = _span_at(data, offset)
    return frame if frame is not None and _is_intact(data, frame) else None


def _span_at(data: memoryview, offset: int) -> RecordSpan | None:
    """Return the span that an intact head at an offset claims, None where there is none or the data ends before it."""
    span = claimed_span(data[offset : offset + HEAD_BYTES], offset)
    return span if span is not None and span.end <= len(data) else None


def claimed_span(head: Bytes, offset: int) -> RecordSpan | None:
    """Return the span that a head at an offset claims, None where it is cut short or not intact."""
    if len(head) < HEAD_BYTES:
        return None
    magic, _, index, count, header_bytes, body_bytes = HEAD.unpack_from(head)
    if magic != MAGIC or CRC.unpack_from(head, HEAD.size)[0] != zlib.crc32(head[: HEAD.size]):
        return None
    header = offset + HEAD_BYTES
    body = header + header_bytes
    hash_at = body + body_bytes
    return RecordSpan(offset, header, body, hash_at, hash_at + HASH_BYTES, index, count)


def _is_intact(data: memoryview, frame: RecordSpan) -> bool:
    return content_hash([data[frame.header : frame.hash]]) == data[frame.hash : frame.end]


def refuse_newer(head: Bytes, where: object) -> None:
    """Raise `StoreError` where the head of a record says that a newer version wrote it."""
    if len(head) >= HEAD.size:
        magic, version, *_ = HEAD.unpack_from(head)
        if magic == MAGIC and version > VERSION:
            raise StoreError(f"{where}: journal version {version} is newer than {VERSION}; upgrade genrl-graph")


def _has_commit_after(data: memoryview, offset: int) -> bool:
    """Return whether a commit begins after an offset: then the bytes at the offset are damaged, not torn.

    A crash leaves few heads without their record; a file made of them would be hashed for each, and is damaged.
    """
    raw = data.obj
    assert isinstance(raw, bytes)
    at, budget = raw.find(MAGIC, offset + 1), 4 * len(data)
    while at >= 0:
        frame = _span_at(data, at)
        if frame is not None and frame.index == 0:
            budget -= frame.end - frame.begin
            if budget < 0 or _is_intact(data, frame):
                return True
        at = raw.find(MAGIC, at + 1)
    return False
