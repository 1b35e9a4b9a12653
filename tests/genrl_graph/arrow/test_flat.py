"""Arrow columns as flat arrays: every allowed table survives a round trip bit for bit."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrl_graph.arrow.flat import join, split
from genrl_graph.arrow.schema import leaves, schema_from_json, schema_json
from genrl_graph.errors import StoreError
from genrl_graph.store.arrays import RolloutArrays
from genrl_graph.store.canonical import conform

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
NUMBERS = [*INTEGERS, pa.float16(), pa.float32(), pa.float64(), pa.bool_()]
TENSORS = st.builds(
    pa.fixed_shape_tensor, st.sampled_from(NUMBERS), st.lists(st.integers(1, 3), min_size=1, max_size=2)
)
TYPES = st.recursive(
    st.sampled_from([*NUMBERS, pa.string()]) | TENSORS,
    lambda inner: st.one_of(
        st.builds(lambda t, n: pa.list_(pa.field("item", t, nullable=n)), inner, st.booleans()),
        st.builds(
            lambda fields: pa.struct([pa.field(k, t, nullable=n) for k, (t, n) in fields.items()]),
            st.dictionaries(
                st.sampled_from(["role", "values", "offsets"]), st.tuples(inner, st.booleans()), min_size=1
            ),
        ),
    ),
    max_leaves=4,
)
SCHEMAS = st.dictionaries(st.sampled_from("abcd"), TYPES, min_size=1, max_size=3).map(
    lambda columns: pa.schema(list(columns.items()))
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
def tables(draw: st.DrawFn, schema: pa.Schema, *, max_rows: int = 6) -> pa.Table:
    rows = draw(st.integers(0, max_rows))
    return pa.Table.from_arrays([draw(arrays(field.type, rows)) for field in schema], schema=schema)


def content(table: pa.Table) -> bytes:
    """Return the bytes of a table, independent of its chunks; NaNs compare by their bits."""
    return stream(table.take(pa.array(np.arange(table.num_rows))).combine_chunks())


def stream(table: pa.Table) -> bytes:
    """Return the bytes of a table as the journal writes them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@given(SCHEMAS)
def test_a_schema_comes_back_from_its_json(schema: pa.Schema) -> None:
    assert schema_from_json(schema_json(schema)) == schema


@settings(deadline=None)
@given(SCHEMAS.flatmap(tables), st.data())
def test_any_slice_of_rows_comes_back_bit_for_bit(table: pa.Table, data: st.DataObject) -> None:
    flat = split(table)
    full = {
        leaf.path: np.concatenate([[0], flat[leaf.path]]) if leaf.into is not None else flat[leaf.path]
        for leaf in leaves(table.schema)
    }
    start = data.draw(st.integers(0, table.num_rows))
    stop = data.draw(st.integers(start, table.num_rows))
    back = join(table.schema, lambda path, first, last: full[path][first:last], start, stop)
    assert back.schema == table.schema
    assert content(back) == content(table.slice(start, stop - start))
    for leaf in leaves(table.schema):
        assert flat[leaf.path].shape[1:] == leaf.shape


@settings(deadline=None)
@given(SCHEMAS.flatmap(tables), st.data())
def test_equal_rows_conform_to_equal_bytes_however_they_were_cut(table: pa.Table, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, table.num_rows))
    twice = pa.concat_tables([table.slice(cut), table.slice(0, cut), table.slice(cut)])
    pieces = pa.concat_tables([twice.slice(table.num_rows - cut, cut), table.slice(cut)]).replace_schema_metadata(
        {"a": "b"}
    )
    one = conform(table, None, fixed=False, where="g")
    other = conform(pieces, None, fixed=False, where="g")
    assert one.schema.metadata is None and other.schema.metadata is None
    assert stream(one) == stream(other)


@settings(deadline=None, max_examples=12)
@given(SCHEMAS.flatmap(lambda schema: st.lists(tables(schema), min_size=1, max_size=3)), st.data())
def test_any_tables_appended_to_arrays_come_back_bit_for_bit(parts: list[pa.Table], data: st.DataObject) -> None:
    whole = pa.concat_tables(parts)
    with TemporaryDirectory() as name:
        arrays = RolloutArrays.create(Path(name) / "rollouts.zarr")
        for part in parts:
            arrays.append({"update/trained": part})
            arrays.publish()
        reader = RolloutArrays(arrays.folder)
        start = data.draw(st.integers(0, whole.num_rows))
        back = reader.read("update/trained", start, whole.num_rows)
        assert reader.schema("update/trained") == whole.schema
        assert content(back) == content(whole.slice(start))


def test_a_known_group_sets_order_and_what_may_be_null() -> None:
    chat = pa.list_(pa.struct([pa.field("role", pa.string(), nullable=False)]))
    known = pa.schema({"m": chat, "x": pa.float32()})
    loose = pa.table({"x": pa.array([1.0], pa.float32()), "m": [[{"role": "user"}]]})
    assert conform(loose, known, fixed=True, where="g").schema == known


@pytest.mark.parametrize(
    ("column", "path"),
    [
        (pa.array([1, None]), "x"),
        (pa.array([["a"], ["b", None]]), "x"),
        (pa.array([[{"role": "a", "content": None}]]), "x"),
        (pa.array([{"a": None}], pa.struct({"a": pa.int8()})), "x"),
        (pa.array([None]), "x"),
    ],
)
def test_a_null_at_any_depth_is_refused(column: pa.Array, path: str) -> None:
    with pytest.raises(StoreError, match=rf"^answer\.{path}: holds null"):
        conform(pa.table({"ok": [1] * len(column), "x": column}), None, fixed=False, where="answer")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"x"]),
        pa.array(["x"], pa.large_string()),
        pa.array([[1]], pa.list_(pa.int8(), 1)),
        pa.array([0], pa.timestamp("s")),
        pa.array(["x"]).dictionary_encode(),
        pa.array([{}], pa.struct([])),
    ],
)
def test_other_types_are_refused_by_column_name(column: pa.Array) -> None:
    with pytest.raises(StoreError, match=r"^answer\.x: type .* cannot be stored"):
        conform(pa.table({"x": column}), None, fixed=False, where="answer")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"a": [1]}), r"g\.b: column is missing"),
        (pa.table({"a": [1], "b": [""], "c": [1]}), r"g\.c: new column"),
        (pa.table({"a": [1.5], "b": [""]}), r"g\.a: type double; earlier rows have int64"),
        (pa.table([[1], [""], [""]], names=["a", "b", "b"]), r"g\.b: 2 columns"),
    ],
)
def test_other_columns_than_before_are_refused(table: pa.Table, message: str) -> None:
    known = pa.schema({"a": pa.int64(), "b": pa.string()})
    with pytest.raises(StoreError, match=message):
        conform(table, known, fixed=True, where="g")


def test_a_table_without_rows_has_the_types_of_its_group() -> None:
    empty: dict[str, Any] = {"ids": [], "image": pa.array([], pa.fixed_shape_tensor(pa.float32(), [0]))}
    known = pa.schema({"ids": pa.string(), "image": pa.fixed_shape_tensor(pa.float32(), [2, 2])})
    assert conform(pa.table(empty), known, fixed=True, where="g").schema == known
    first = conform(pa.table(empty), None, fixed=False, where="g")
    assert first.schema.field("ids").type == pa.null()
    known_again = conform(known.empty_table(), first.schema, fixed=False, where="g")
    assert known_again.schema == known
