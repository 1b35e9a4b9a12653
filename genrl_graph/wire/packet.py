"""Packets: the bytes of a frame that peers exchange; the decoder trusts nothing that the sender claims.

    head | header | body

The head is ff "GGP", version u16, codec u8 (0 uncompressed, 1 zstd), header bytes u32, packed bytes u64 and body
bytes u64, all little-endian. The header is JSON: the edge type with its version, marks and columns, and the number of
rows. `genrl_graph.wire.body` defines the body. Arrow IPC is not used, because sizes that its messages claim cannot be
bounded before memory is allocated for them.
"""

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.cast import Column, Tensor
from genrl_graph.arrow.schema import NAMES, schema_json
from genrl_graph.edge_types.frame import Frame, in_family
from genrl_graph.errors import ColumnError, ParamError
from genrl_graph.messages import short
from genrl_graph.wire.body import Body, at_most, parts, refuse

MAGIC = b"\xffGGP"
VERSION = 1
HEAD = struct.Struct("<4sHBIQQ")
PLAIN, ZSTD = 0, 1
LEVEL = 1
MOST_HEADER_BYTES = 2**16
MOST_NESTING = 32
MOST_DIMENSIONS = 8
MOST_EXTRA_COLUMNS = 64
MOST_NAME = 80
SMALL = 512  # smaller bodies in bytes are not compressed
SAMPLE, PIECES = 2**16, 16
WORTH = 0.9  # a sample must shrink below this share for the body to be compressed

_EXTRA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_KEYS = ("type", "version", "marks", "rows", "columns")

Rows = TypeVar("Rows", bound=Frame)


@dataclass(frozen=True, slots=True)
class PacketLimits:
    """Size limits of one packet; `max_list` bounds the list elements of one row and column, over all nesting levels."""

    max_rows: int = 4096
    max_row_bytes: int = 2**20
    max_payload_bytes: int = 2**26
    max_decoded_bytes: int = 2**28
    max_list: int = 2**18


def encode(rows: Frame, *, limits: PacketLimits | None = None) -> bytes:
    """Encode rows as a packet, without their local columns.

    Raises `ParamError` if they exceed `limits`, as every peer would refuse them, and `ColumnError` if the columns take
    too many bytes to describe.
    """
    rows = rows.without_local()
    body: list[memoryview] = [part for column in rows.table.columns for part in parts(column.combine_chunks())]
    size = sum(map(len, body))
    codec, packed = PLAIN, body
    if _is_worth_packing(body, size):
        codec, packed = ZSTD, [memoryview(_codec().compress(b"".join(body), asbytes=True))]
    header = json.dumps(_described(rows, len(rows)), separators=(",", ":")).encode()
    if len(header) > MOST_HEADER_BYTES:
        raise ColumnError(f"{rows.edge_type}: its columns take {len(header)} bytes to describe, of {MOST_HEADER_BYTES}")
    head = HEAD.pack(MAGIC, VERSION, codec, len(header), sum(map(len, packed)), size)
    data = b"".join([head, header, *packed])
    if limits is not None:
        _check_limits(len(rows), size, len(data), limits)
    return data


def decode(data: bytes | bytearray | memoryview, *, like: Rows, limits: PacketLimits) -> Rows:
    """Decode the rows of another peer; they must have the type, marks and columns of `like`, the receiver's own offer.

    The sender chooses only the number of rows, the shapes of tensors if `like` has no rows, and additional columns of
    a mark such as `reward_<term>`. Memory use stays within a small multiple of `limits`; the limits on single rows are
    checked later, at admission. Raises `PeerRefused` with the message `<rule>: <reason>`.
    """
    view = memoryview(data)
    at_most("payload_bytes", len(view), limits.max_payload_bytes)
    codec, header_bytes, body_bytes = _read_head(view, limits)
    header = _read_header(bytes(view[HEAD.size : HEAD.size + header_bytes]))
    count, schema = _check_header(header, like, limits)
    body = Body(_unpack(view[HEAD.size + header_bytes :], codec, body_bytes))
    arrays = [body.array(field.type, field.name, count) for field in schema]
    body.end()
    table = pa.Table.from_arrays(arrays, schema=schema)
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        refuse("text", f"{str(error).splitlines()[-1][:160]}; utf-8 is wanted")
    return type(like)(table, marks=like.marks)


def _check_limits(rows: int, body_bytes: int, packet_bytes: int, limits: PacketLimits) -> None:
    for unit, value, most in (
        ("rows", rows, limits.max_rows),
        ("bytes", packet_bytes, limits.max_payload_bytes),
        ("bytes unpacked", body_bytes, limits.max_decoded_bytes),
    ):
        if value > most:
            raise ParamError(f"offers {value} {unit}, and peers take {most}; offer less, or raise the limits")


def _described(rows: Frame, count: int) -> dict[str, Any]:
    marks = sorted(mark.name for mark in rows.marks)
    values = (type(rows).__name__, type(rows).version, marks, count, schema_json(rows.table.schema))
    return dict(zip(_KEYS, values, strict=True))


def _codec() -> pa.Codec:
    return pa.Codec("zstd", compression_level=LEVEL)


def _is_worth_packing(body: Sequence[memoryview], size: int) -> bool:
    """Return whether a sample from all over the body compresses well enough to be worth the time."""
    if size < SMALL:
        return False
    share = min(1.0, SAMPLE / size)
    sample = b"".join(piece for part in body for piece in _pieces(part, share))
    return len(_codec().compress(sample)) < WORTH * len(sample)


def _pieces(part: memoryview, share: float) -> Iterator[memoryview]:
    """Yield evenly spread pieces of a part that together make up this share of it."""
    step = max(1, len(part) // PIECES)
    for start in range(0, len(part), step):
        yield part[start : start + math.ceil(share * step)]


def _read_head(view: memoryview, limits: PacketLimits) -> tuple[int, int, int]:
    """Check the head and return the codec, the size of the header and the size of the uncompressed body."""
    if len(view) < HEAD.size:
        refuse("head", f"{len(view)} bytes, of {HEAD.size} at least")
    magic, version, codec, header_bytes, packed_bytes, body_bytes = HEAD.unpack_from(view)
    if magic != MAGIC:
        refuse("magic", f"{magic!r}, not {MAGIC!r}")
    if version != VERSION:
        refuse("version", f"{version}, not {VERSION}")
    if codec not in (PLAIN, ZSTD):
        refuse("codec", f"{codec}, not {PLAIN} or {ZSTD}")
    at_most("header_bytes", header_bytes, MOST_HEADER_BYTES)
    at_most("body_bytes", body_bytes, limits.max_decoded_bytes)
    if HEAD.size + header_bytes + packed_bytes != len(view):
        refuse("length", f"{len(view)} bytes, not {HEAD.size + header_bytes + packed_bytes} as the head says")
    if codec == PLAIN and packed_bytes != body_bytes:
        refuse("length", f"{packed_bytes} bytes as they are, but {body_bytes} in the body")
    return codec, header_bytes, body_bytes


def _read_header(raw: bytes) -> Mapping[str, Any]:
    """Parse the header; brackets outside strings are counted first, so deep nesting never reaches the JSON parser."""
    try:
        text = raw.decode()
        at_most("nesting", _nesting(text), MOST_NESTING)
        header = json.loads(text)
    except ValueError as error:
        refuse("header", f"{short(raw)} is no JSON ({str(error)[:80]})")
    if not isinstance(header, dict) or tuple(header) != _KEYS:
        refuse("header", f"{short(header)}, not an object of {', '.join(_KEYS)}")
    return header


def _nesting(text: str) -> int:
    """Return the deepest nesting of brackets outside strings."""
    characters = np.frombuffer(_JSON_TEXT.sub("", text).encode("utf-32-le"), "<u4")
    opens = np.isin(characters, list(map(ord, "[{"))).astype(np.int64)
    return int(np.cumsum(opens - np.isin(characters, list(map(ord, "]}")))).max(initial=0))


def _check_header(header: Mapping[str, Any], like: Frame, limits: PacketLimits) -> tuple[int, pa.Schema]:
    """Check the header against the receiver's own offer and return the number of rows and the schema."""
    rows = header["rows"]
    if type(rows) is not int or rows < 0:
        refuse("rows", f"{short(rows)} is no number of rows")
    at_most("rows", rows, limits.max_rows)
    own = _described(like, rows)
    for key in ("type", "version", "marks"):
        if header[key] != own[key]:
            refuse(key, f"{short(header[key])}, not {short(own[key])}")
    types, declared = header["columns"], type(like).declared(like.marks)
    if not isinstance(types, dict) or list(types)[: len(declared)] != list(declared):
        refuse("columns", f"{short(types)}, not those of {like.edge_type} in order: {', '.join(declared)[:200]}")
    at_most("columns", len(types), len(declared) + MOST_EXTRA_COLUMNS)
    expected = declared | {name: _extra_type(name, like) for name in list(types)[len(declared) :]}
    typed = {name: _column_type(name, types[name], column, like, rows, limits) for name, column in expected.items()}
    return rows, pa.schema(list(typed.items()))


def _extra_type(name: str, like: Frame) -> pa.DataType:
    """Return the type of an additional column that a mark allows by prefix."""
    dtype = in_family(name, like.marks)
    if dtype is None:
        refuse("columns", f"unknown column {short(name)} of {like.edge_type}")
    if name not in like.table.column_names and (len(name) > MOST_NAME or not _EXTRA_NAME.fullmatch(name)):
        refuse("columns", f"{short(name)} is no name of at most {MOST_NAME} letters, digits, '_', '.' and '-'")
    return dtype


def _column_type(
    name: str, claimed: object, column: Column, like: Frame, rows: int, limits: PacketLimits
) -> pa.DataType:
    """Return the type of a column if the type that the header claims agrees with the declared one."""
    if not isinstance(column, Tensor):
        own = schema_json(pa.schema([(name, column)]))[name]
        if claimed != own:
            refuse("columns", f"{name!r} is {short(claimed)}, not {short(own)}")
        return column
    dtype = _tensor_type(name, claimed, column, rows, limits)
    if len(like) and rows and dtype != like.table.schema.field(name).type:
        refuse("shape", f"{name!r} is {dtype}, and ours are {like.table.schema.field(name).type}"[:300])
    return dtype


def _tensor_type(name: str, claimed: object, column: Tensor, rows: int, limits: PacketLimits) -> pa.DataType:
    """Return the tensor type that the header claims, if its dtype fits and its shape is within the limits."""
    if not isinstance(claimed, dict) or claimed.get("tensor") != NAMES[column.dtype]:
        refuse("columns", f"{name!r} is {short(claimed)}, not a tensor of {column.dtype}")
    shape, dim_names = claimed.get("shape"), claimed.get("dim_names")
    if not isinstance(shape, list) or not 1 <= len(shape) <= MOST_DIMENSIONS or {type(n) for n in shape} != {int}:
        refuse("shape", f"{name!r} has {short(shape)}, not 1 to {MOST_DIMENSIONS} whole numbers")
    if column.ndim not in (None, len(shape)):
        refuse("shape", f"{name!r} has {short(shape)}, not {column.ndim} dimensions")
    if min(shape) < (1 if rows else 0):
        refuse("shape", f"{name!r} has {short(shape)}, but only sizes above 0 hold something")
    at_most("shape", math.prod(max(1, n) for n in shape) * max(1, column.dtype.bit_width // 8), limits.max_row_bytes)
    if dim_names is not None and not _are_names(dim_names, len(shape)):
        refuse("shape", f"{name!r} has the dimensions {short(dim_names)}, not {len(shape)} short names")
    return pa.fixed_shape_tensor(column.dtype, shape, dim_names=dim_names)


def _are_names(names: object, count: int) -> bool:
    """Return whether a value from the header is a list of `count` short, printable dimension names."""
    if not isinstance(names, list) or len(names) != count:
        return False
    return all(isinstance(name, str) and len(name) <= MOST_NAME and name.isprintable() for name in names)


def _unpack(packed: memoryview, codec: int, size: int) -> memoryview:
    """Return the uncompressed body; zstd must fill exactly `size` bytes and cannot write beyond them."""
    if codec == PLAIN:
        return packed
    try:
        return memoryview(_codec().decompress(pa.py_buffer(packed), decompressed_size=size))
    except OSError as error:
        refuse("packed", f"{len(packed)} bytes do not unpack to {size}: {str(error)[:120]}")
