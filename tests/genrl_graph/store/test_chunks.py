"""The files of arrays equal those of the zarr package, and errors name the damaged file."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec, ZstdCodec

from genrl_graph.arrow.flat import Flat
from genrl_graph.arrow.schema import Leaf
from genrl_graph.errors import StoreError
from genrl_graph.store.chunks import LEVEL, ChunkedArray
from genrl_graph.store.run_path import RunPath

NUMBERS = ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
DTYPES = [*NUMBERS, "float16", "float32", "float64", "string"]
LEAVES = [Leaf("x", "", dtype) for dtype in DTYPES] + [
    Leaf("x/values", "x/values", "int32"),
    Leaf("x", "", "float32", (2, 3)),
    Leaf("x/offsets", "", "int64", into="x/values"),
]


def values(leaf: Leaf, count: int) -> Flat:
    """Return `count` varied elements for a leaf."""
    if leaf.dtype == "string":
        return np.array([f"é{number}" * (number % 3) for number in range(count)], dtype=object)
    width = int(np.prod(leaf.shape, dtype=int))
    return (np.arange(count * width) % 101).astype(leaf.dtype).reshape(count, *leaf.shape)


def write(array: ChunkedArray, elements: Flat, at: int) -> None:
    for path, data in array.files(elements, at):
        if path.parent.names:
            path.parent.make_folder()
        path.write(data)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("leaf", LEAVES, ids=str)
def test_the_files_are_those_that_zarr_writes(leaf: Leaf, tmp_path: Path) -> None:
    array = ChunkedArray(RunPath(tmp_path) / "ours", leaf)
    elements = values(leaf, 2 * min(array.size, 5_000) + 7)
    write(array, elements, 0)
    theirs: Any = zarr.create_array(
        str(tmp_path / "theirs"),
        shape=elements.shape,
        chunks=(array.size, *leaf.shape),
        dtype=leaf.dtype,
        compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    theirs[:] = elements
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "ours"), mode="r")[:], elements)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(LEAVES), st.lists(st.integers(0, 6_000), min_size=1, max_size=4), st.data())
def test_what_is_appended_piece_by_piece_is_what_is_written_at_once(
    leaf: Leaf, lengths: list[int], data: st.DataObject
) -> None:
    elements = values(leaf, sum(lengths))
    with TemporaryDirectory() as name:
        pieces, whole = (ChunkedArray(RunPath(Path(name)) / which, leaf) for which in ("pieces", "whole"))
        write(whole, elements, 0)
        at = 0
        for length in lengths:
            if length and data.draw(st.booleans()):  # a block that was cut, whose rows are written again
                write(pieces, values(leaf, length + 3), at)
            write(pieces, elements[at : at + length], at)
            at += length
        start = data.draw(st.integers(0, len(elements)))
        stop = data.draw(st.integers(start, len(elements)))
        np.testing.assert_array_equal(pieces.read(start, stop), elements[start:stop])
        kept = files(whole.folder.path)
        assert {path: found for path, found in files(pieces.folder.path).items() if path in kept} == kept


def test_reading_names_the_chunk_that_is_missing_or_damaged(tmp_path: Path) -> None:
    array = ChunkedArray(RunPath(tmp_path), Leaf("x", "", "int32"))
    write(array, values(array.leaf, 2 * array.size), 0)
    damaged = bytearray(array.chunk(1).path.read_bytes())
    for at in (0, len(damaged) // 2, len(damaged) - 1):
        damaged[at] ^= 1
        array.chunk(1).path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"c/1: chunk is damaged \(its checksum differs\)"):
            array.read(0, 2 * array.size)
        damaged[at] ^= 1
    array.chunk(1).path.write_bytes(b"")
    with pytest.raises(StoreError, match="c/1: chunk is damaged"):
        array.read(array.size, array.size + 1)
    array.chunk(1).unlink()
    with pytest.raises(StoreError, match="c/1: chunk is missing; restore it from a copy"):
        array.read(array.size, array.size + 1)
    assert len(array.read(0, array.size)) == array.size
