"""Packets: rows of an honest peer survive a round trip bit for bit; anything else raises only `PeerRefused`."""

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Moves

from genrl_graph import Frame, Tasks, Tensor, score
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.errors import ParamError, PeerRefused
from genrl_graph.wire.packet import HEAD, MAGIC, PLAIN, VERSION, ZSTD, PacketLimits, decode, encode

LIMITS = PacketLimits()
INTEGERS = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
NUMBERS = [*INTEGERS, pa.float16(), pa.float32(), pa.float64(), pa.bool_()]
TENSORS = st.builds(
    pa.fixed_shape_tensor, st.sampled_from(NUMBERS), st.lists(st.integers(1, 3), min_size=1, max_size=2)
)
FIELDS = st.dictionaries(st.sampled_from(["role", "values", "offsets"]), st.sampled_from(NUMBERS), min_size=1)
TYPES = st.recursive(
    st.sampled_from([*NUMBERS, pa.string()]) | TENSORS,
    lambda inner: st.one_of(
        st.builds(lambda t, n: pa.list_(pa.field("item", t, nullable=n)), inner, st.booleans()),
        st.dictionaries(st.sampled_from(["role", "values", "offsets"]), inner, min_size=1).map(
            lambda fields: pa.struct([pa.field(name, dtype, nullable=False) for name, dtype in fields.items()])
        ),
    ),
    max_leaves=4,
)


@st.composite
def arrays(draw: st.DrawFn, dtype: pa.DataType, rows: int) -> pa.Array:
    """Draw an array of a type; its numbers have any bits, such as NaN with a payload, -0.0 and subnormals."""
    if isinstance(dtype, pa.FixedShapeTensorType):
        width = int(np.prod(dtype.shape))
        flat = draw(arrays(dtype.value_type, rows * width))
        return pa.ExtensionArray.from_storage(dtype, pa.FixedSizeListArray.from_arrays(flat, width))
    if pa.types.is_list(dtype):
        lengths = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
        ends = np.cumsum([0, *lengths], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), draw(arrays(dtype.value_type, int(ends[-1]))), type=dtype)
    if pa.types.is_struct(dtype):
        return pa.StructArray.from_arrays([draw(arrays(f.type, rows)) for f in dtype], fields=list(dtype))
    if pa.types.is_string(dtype):
        return pa.array(draw(st.lists(st.text(max_size=5), min_size=rows, max_size=rows)), dtype)
    if pa.types.is_boolean(dtype):
        return pa.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), dtype)
    raw = draw(st.binary(min_size=rows * dtype.bit_width // 8, max_size=rows * dtype.bit_width // 8))
    return pa.array(np.frombuffer(raw, dtype=dtype.to_pandas_dtype()), dtype)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Draw rows of a new edge type, with or without rewards."""
    schema = draw(st.dictionaries(st.sampled_from("abcd"), TYPES, min_size=1, max_size=3))
    declared = {
        name: Tensor(dtype.value_type) if isinstance(dtype, pa.FixedShapeTensorType) else dtype
        for name, dtype in schema.items()
    }
    kind = type("Made", (Frame,), {"columns": declared, "__slots__": ()})
    scored = draw(st.lists(st.sampled_from(["right", "neat", "a.b"]), unique=True) | st.none())
    if scored is not None:
        schema |= dict.fromkeys(["reward", *(f"reward_{term}" for term in scored)], pa.float64())
    rows = draw(st.integers(0, 5))
    table = pa.table({name: draw(arrays(dtype, rows)) for name, dtype in schema.items()})
    frame: Frame = kind(table, marks=() if scored is None else [SCORED])
    return frame.take(draw(st.permutations(range(rows)))) if draw(st.booleans()) else frame


def stream(table: pa.Table) -> bytes:
    """Return the bytes of a table, independent of its chunks; NaNs compare by their bits."""
    whole = table.take(pa.array(np.arange(table.num_rows))).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return bytes(sink.getvalue())


def moves(rows: int = 3, *, side: int = 2) -> Moves:
    return Moves.from_columns(
        {
            "id": [f"møve{at}" for at in range(rows)],
            "value": list(range(rows)),
            "path": [list(range(at)) for at in range(rows)],
            "board": np.arange(rows * side * 3, dtype=np.float32).reshape(rows, side, 3),
        }
    )


def chats(rows: int = 4) -> Tasks:
    said = [{"role": "user", "content": "What is 2 + 2? " * 20}, {"role": "assistant", "content": "four"}]
    columns = {"id": list(map(str, range(rows))), "messages": [said] * rows, "answer": ["4"] * rows}
    return Tasks.from_columns(columns | {"metadata": ["{}"] * rows})


def header_of(data: bytes) -> dict[str, Any]:
    *_, size, _, _ = HEAD.unpack_from(data)
    header: dict[str, Any] = json.loads(data[HEAD.size : HEAD.size + size])
    return header


def forged(
    data: bytes, *, header: object = None, body: bytes | None = None, codec: int | None = None, **head: Any
) -> bytes:
    """Return the packet with another header, body or head; sizes in the head are adapted unless given."""
    _, _, own_codec, size, _, body_bytes = HEAD.unpack_from(data)
    raw = data[HEAD.size : HEAD.size + size] if header is None else header
    raw = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    packed = data[HEAD.size + size :] if body is None else body
    values = {
        "magic": MAGIC,
        "version": VERSION,
        "codec": own_codec if codec is None else codec,
        "header_bytes": len(raw),
        "packed": len(packed),
        "claimed": body_bytes if body is None else len(body),
    }
    return HEAD.pack(*(values | head).values()) + raw + packed


def plain(rows: Frame) -> tuple[bytes, bytes]:
    """Return the uncompressed packet of rows, and its body."""
    data = encode(rows)
    _, _, codec, size, _, body_bytes = HEAD.unpack_from(data)
    body = data[HEAD.size + size :]
    if codec == ZSTD:
        body = pa.Codec("zstd").decompress(body, decompressed_size=body_bytes, asbytes=True)
    return forged(data, body=body, codec=PLAIN), body


@settings(max_examples=150)
@given(frames(), st.booleans())
def test_any_rows_come_back_bit_for_bit(rows: Frame, empty: bool) -> None:
    back = decode(encode(rows, limits=LIMITS), like=rows.take([]) if empty else rows, limits=LIMITS)
    assert type(back) is type(rows) and back.edge_type == rows.edge_type
    assert back.table.schema == rows.table.schema
    assert stream(back.table) == stream(rows.table)


def test_packed_rows_come_back_and_are_shorter() -> None:
    rows = chats(200)
    data = encode(rows)
    assert HEAD.unpack_from(data)[2] == ZSTD and len(data) < rows.table.nbytes / 10
    assert decode(data, like=rows.take([]), limits=LIMITS) == rows
    noise = np.random.default_rng(0).standard_normal((4, 50, 100)).astype(np.float32)
    boards = moves(4).table.set_column(3, "board", pa.FixedShapeTensorArray.from_numpy_ndarray(noise))
    data = encode(Moves(boards))
    assert HEAD.unpack_from(data)[2] == PLAIN  # what packing would not shorten is sent as it is
    assert decode(memoryview(data), like=moves(0), limits=LIMITS) == Moves(boards)


@settings(max_examples=400)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused(noise: bytes, headed: bool) -> None:
    data = HEAD.pack(MAGIC, VERSION, PLAIN, len(noise), 0, 0) + noise if headed else noise
    with pytest.raises(PeerRefused):
        decode(data, like=chats(), limits=LIMITS)


PLACES = st.integers(0, 2**16)
EDITS = st.tuples(st.sampled_from(["flip", "cut", "insert", "swap", "repeat"]), PLACES, PLACES, st.binary(max_size=9))


def mutated(data: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    for how, first, second, more in edits:
        at, to = sorted((first % (len(data) + 1), second % (len(data) + 1)))
        if how == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << second % 8)]) + data[at + 1 :]
        elif how == "cut":
            data = data[:at] + data[to:]
        elif how == "insert":
            data = data[:at] + more + data[at:]
        elif how == "swap":
            data = data[:at] + data[at + 4 : at + 8] + data[at : at + 4] + data[at + 8 :]
        elif how == "repeat":
            data = data[:to] + data[at:to] + data[to:]
    return data


@settings(max_examples=400)
@given(st.sampled_from(["tasks", "moves"]), st.lists(EDITS, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_mutations_are_refused_or_rows_of_the_type(
    kind: str, edits: list[tuple[str, int, int, bytes]], only_body: bool, empty: bool
) -> None:
    rows: Frame = chats(3) if kind == "tasks" else moves(3)
    data, body = plain(rows)
    data = forged(data, body=mutated(body, edits)) if only_body else mutated(data, edits)
    like = rows.take([]) if empty else rows
    try:
        back = decode(data, like=like, limits=LIMITS)
    except PeerRefused as error:
        assert "\n" not in str(error) and len(str(error)) < 400 and str(error).isprintable()
    else:
        back.table.validate(full=True)
        assert back.edge_type == rows.edge_type
        assert empty or back.table.schema == rows.table.schema


def test_every_claim_is_held_against_the_limits_before_anything_is_allocated() -> None:
    rows, small = chats(4), PacketLimits(max_rows=3, max_row_bytes=2**10, max_payload_bytes=300, max_decoded_bytes=300)
    data = encode(rows)
    for limits, how in (
        (small, "payload_bytes"),
        (PacketLimits(max_decoded_bytes=100), "body_bytes"),
        (PacketLimits(max_rows=3), "rows"),
    ):
        with pytest.raises(PeerRefused, match=f"^{how}: "):
            decode(data, like=rows, limits=limits)
    for limits in (small, PacketLimits(max_rows=3), PacketLimits(max_decoded_bytes=100)):
        with pytest.raises(ParamError, match="peers take"):
            encode(rows, limits=limits)


def edited(frame: Frame, **changes: Any) -> bytes:
    data, _ = plain(frame)
    return forged(data, header=header_of(data) | changes)


def with_column(rows: Frame, name: str, kind: object) -> bytes:
    return edited(rows, columns=header_of(encode(rows))["columns"] | {name: kind})


def hostile() -> dict[str, tuple[str, bytes, Frame]]:
    """Return, by the name of an attack: the rule that refuses it, the packet, and the receiver's own offer."""
    data, body = plain(chats())
    boards, board_body = plain(moves())
    board = {"tensor": "float32", "shape": [2, 3]}
    scored = score(chats(), {"right": np.zeros(4)})
    flags: type[Frame] = type("Flags", (Frame,), {"columns": {"flag": pa.bool_()}, "__slots__": ()})
    nothing: type[Frame] = type("Nothing", (Frame,), {"columns": {"none": pa.list_(pa.null())}, "__slots__": ()})
    deep = b'{"type":' + b"[" * 30_000
    hidden = b'["' + b"]" * 9000 + b'",' + b"[" * 9000
    surrogate = struct.pack("<4i", 3, 0, 0, 1) + b"\xed\xa0\x80" + body[19:]
    many = {f"reward_{n}": "float64" for n in range(99)}
    bomb = pa.Codec("zstd").compress(bytes(2**26), asbytes=True)
    columns = header_of(data)["columns"]
    return {
        "nothing": ("head", b"", chats()),
        "truncated head": ("head", data[: HEAD.size - 1], chats()),
        "other magic": ("magic", forged(data, magic=b"PAR1"), chats()),
        "newer version": ("version", forged(data, version=2), chats()),
        "unknown codec": ("codec", forged(data, codec=7), chats()),
        "10 GB claim": ("body_bytes", forged(data, claimed=10 * 2**30), chats()),
        "10 GB packed": ("length", forged(data, packed=10 * 2**30), chats()),
        "huge header": ("header_bytes", forged(data, header=b" " * 2**17), chats()),
        "truncated": ("length", data[:-1], chats()),
        "tail": ("length", data + b"x", chats()),
        "longer body than plain": ("length", forged(data, claimed=len(body) + 1), chats()),
        "bomb": ("packed", forged(data, codec=ZSTD, body=bomb, claimed=len(body)), chats()),
        "bomb of more than it says": (
            "packed",
            forged(data, codec=ZSTD, body=bomb, claimed=2**26 - 1),
            chats(),
        ),
        "bomb of its size": ("body", forged(data, codec=ZSTD, body=bomb, claimed=2**26), chats()),
        "no zstd": ("packed", forged(data, codec=ZSTD, body=b"\x00" * 50, claimed=100), chats()),
        "deep JSON": ("nesting", forged(data, header=deep), chats()),
        "deep JSON behind texts": (
            "nesting",
            forged(data, header=hidden),
            chats(),
        ),
        "deep JSON in UTF-16": ("header", forged(data, header=("[" * 9000).encode("utf-16")), chats()),
        "a number of many digits": ("header", forged(data, header=b'{"type": ' + b"9" * 9000 + b"}"), chats()),
        "no JSON": ("header", forged(data, header=b"\xff\xfe"), chats()),
        "no object": ("header", forged(data, header=[1, 2]), chats()),
        "other keys": ("header", forged(data, header={"type": "Tasks"}), chats()),
        "other type": ("type", data, moves()),
        "other version of the type": ("version", edited(chats(), version=2), chats()),
        "other marks": ("marks", data, scored),
        "negative rows": ("rows", edited(chats(), rows=-1), chats()),
        "rows as text": ("rows", edited(chats(), rows="4"), chats()),
        "rows as a boolean": ("rows", edited(chats(), rows=True), chats()),
        "rows beyond the limit": ("rows", edited(chats(), rows=10**9), chats()),
        "rows beyond the body": ("body", edited(chats(), rows=4000), chats()),
        "fewer rows": ("body", edited(chats(), rows=3), chats()),
        "columns as a list": ("columns", edited(chats(), columns=[1]), chats()),
        "missing column": ("columns", edited(chats(), columns={"id": "string"}), chats()),
        "other order": ("columns", edited(chats(), columns=dict(reversed(columns.items()))), chats()),
        "other column type": ("columns", with_column(chats(), "answer", "int64"), chats()),
        "no type at all": ("columns", with_column(chats(), "answer", {"list": {"list": {}}}), chats()),
        "unknown column": ("columns", with_column(chats(), "reward_x", "float64"), chats()),
        "extra of another type": ("columns", with_column(scored, "reward_x", "string"), scored),
        "extra that is a path": ("columns", with_column(scored, "reward_../../x", "float64"), scored),
        "extra of a long name": ("columns", with_column(scored, "reward_" + "x" * 99, "float64"), scored),
        "extra of no unicode": ("columns", with_column(scored, "reward_\ud800", "float64"), scored),
        "many extras": (
            "columns",
            edited(scored, columns=header_of(encode(scored))["columns"] | many),
            scored,
        ),
        "other shape": ("shape", with_column(moves(), "board", board | {"shape": [3, 2]}), moves()),
        "shape beyond a row": ("shape", with_column(moves(), "board", board | {"shape": [2**20, 2**20]}), moves(0)),
        "shape of nothing": ("shape", with_column(moves(), "board", board | {"shape": [0, 3]}), moves(0)),
        "negative shape": ("shape", with_column(moves(), "board", board | {"shape": [-1, -6]}), moves(0)),
        "shape of floats": ("shape", with_column(moves(), "board", board | {"shape": [2.0, 3]}), moves(0)),
        "no shape": ("shape", with_column(moves(), "board", board | {"shape": []}), moves(0)),
        "many dimensions": ("shape", with_column(moves(), "board", board | {"shape": [1] * 99}), moves(0)),
        "other tensor": ("columns", with_column(moves(), "board", board | {"tensor": "int32"}), moves(0)),
        "names of dimensions": ("shape", with_column(moves(), "board", board | {"dim_names": ["a"]}), moves(0)),
        "negative length": ("body", forged(data, body=struct.pack("<i", -1) + body[4:]), chats()),
        "ragged beyond the body": ("body", forged(data, body=struct.pack("<i", 2**31 - 1) + body[4:]), chats()),
        "lengths that overflow": ("body", forged(data, body=struct.pack("<4i", *[2**30] * 4) + body[16:]), chats()),
        "half a character": ("text", forged(boards, body=board_body.replace("ø".encode(), b"\xc3x")), moves()),
        "character over two rows": (
            "text",
            forged(boards, body=struct.pack("<3i", 2, 10, 6) + board_body[12:]),
            moves(),
        ),
        "utf-8 surrogate": (
            "text",
            forged(data, body=surrogate),
            chats(),
        ),
        "boolean of 2": ("body", forged(encode(flags.from_columns({"flag": [True]})), body=b"\x02"), flags.empty()),
        "elements of no type": (
            "body",
            forged(encode(nothing.from_columns({"none": [[]]})), body=struct.pack("<i", 2**31 - 1)),
            nothing.empty(),
        ),
        "lengths swapped": ("body", forged(data, body=body[16:32] + body[:16] + body[32:]), chats()),
    }


HOSTILE = hostile()


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_payloads_are_refused_by_name(attack: str) -> None:
    rule, data, like = HOSTILE[attack]
    tracemalloc.start()
    try:
        with pytest.raises(PeerRefused) as refused:
            decode(data, like=like, limits=LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert str(refused.value).partition(": ")[0] == rule, str(refused.value)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 400


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from genrl_graph import Tasks
from genrl_graph.errors import PeerRefused
from genrl_graph.wire.packet import PacketLimits, decode
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 160 * 2**20,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode(path.read_bytes(), like=Tasks.empty(), limits=PacketLimits(max_decoded_bytes=2**26))
    except PeerRefused:
        continue
    raise SystemExit(f"{path.name} was admitted")
print("bounded")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
def test_memory_is_bounded_by_the_limits_whatever_is_claimed(tmp_path: Path) -> None:
    """Arrow and zstd allocate outside Python's heap, so a process runs with 160 MiB more than it has."""
    for attack, (_, data, like) in HOSTILE.items():
        if like.edge_type == chats().edge_type:
            (tmp_path / attack).write_bytes(data)
    command = [sys.executable, "-c", LITTLE_MEMORY, str(tmp_path)]
    plain_malloc = {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # other pools reserve more than they use
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | plain_malloc)
    assert done.stdout.strip() == "bounded", done.stdout + done.stderr[-2000:]
