"""One array of a zarr v3 tree as files: its metadata, and chunks of fixed length that are compressed and checksummed.

The files are what the zarr package itself writes for the same values, and it reads them. They are made here because
its writer costs about 5 ms of processor time an array and an append, which is most of what a block of small columns
would take; and because every one of them must be on the disk before the rows in it count.
"""

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd

from genrl_graph.arrow.flat import Flat
from genrl_graph.arrow.schema import Leaf
from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed

LEVEL = 1  # of zstd: on token ids twice as fast as 3 and 2 % larger
STRINGS_A_CHUNK = 4_096
ROWS_A_CHUNK = 16_384
VALUE_BYTES_A_CHUNK = 2 * 2**20
CHECKSUM = struct.Struct("<I")
LENGTH = b"<length>"
LITTLE_ENDIAN = {"configuration": {"endian": "little"}}
READERS = 4  # threads that decompress,
BYTES_FOR_THREADS = 8 * 2**20  # where there is enough to do


@dataclass(frozen=True, slots=True)
class ChunkedArray:
    """The array of one leaf in a folder; element i is in chunk i // `size`."""

    folder: Path
    leaf: Leaf

    @property
    def size(self) -> int:
        """Elements in a chunk: many of what a row has many of, fewer of what it has one of."""
        if self._is_text:
            return STRINGS_A_CHUNK
        width = max(1, int(np.prod(self.leaf.shape)))
        if self.leaf.level == "":
            return max(1, ROWS_A_CHUNK // width)
        return max(1, VALUE_BYTES_A_CHUNK // (width * np.dtype(self.leaf.dtype).itemsize))

    @property
    def metadata(self) -> Path:
        """The file that says what the array is."""
        return self.folder / "zarr.json"

    def chunk(self, number: int) -> Path:
        """The file of a chunk."""
        return self.folder.joinpath("c", str(number), *("0" for _ in self.leaf.shape))

    def chunks(self, length: int) -> range:
        """The numbers of the chunks that an array of some length has."""
        return range(-(-length // self.size))

    def describe(self, length: int) -> bytes:
        """The metadata of the array with `length` elements."""
        return _description(self.leaf, self.size).replace(LENGTH, b"%d" % length, 1)

    def files(self, values: Flat, at: int) -> Iterator[tuple[Path, bytes]]:
        """The files that change when `values` come to stand from element `at` on; what stood there or beyond goes.

        Raises `StoreError` where the chunk that is filled up is missing or damaged.
        """
        length = at + len(values)
        first, kept = divmod(at, self.size)
        if kept and len(values):
            values = np.concatenate([self.load(first)[:kept], values])
        for number, start in enumerate(range(0, len(values), self.size), start=first):
            yield self.chunk(number), self.encode(values[start : start + self.size])
        yield self.metadata, self.describe(length)

    def read(self, start: int, stop: int) -> Flat:
        """The elements from start to stop; raises `StoreError` where a chunk is missing or damaged."""
        if stop <= start:
            return np.empty((0, *self.leaf.shape), self._dtype)
        numbers = range(start // self.size, -(-stop // self.size))
        if len(numbers) == 1:
            begin = numbers[0] * self.size
            return self.load(numbers[0])[start - begin : stop - begin]
        found = np.empty((stop - start, *self.leaf.shape), self._dtype)

        def put(number: int) -> None:
            begin = number * self.size
            first, last = max(start, begin), min(stop, begin + self.size)
            found[first - start : last - start] = self.load(number)[first - begin : last - begin]

        if found.nbytes < BYTES_FOR_THREADS or self._is_text:
            for number in numbers:
                put(number)
            return found
        with ThreadPoolExecutor(READERS) as pool:
            for done in [pool.submit(put, number) for number in numbers]:
                done.result()
        return found

    def load(self, number: int) -> Flat:
        """All elements of a chunk, those beyond the end of the array too; raises `StoreError` as `read` does."""
        path = self.chunk(number)
        try:
            return self.decode(path.read_bytes())
        except FileNotFoundError as error:
            raise StoreError(f"{path}: chunk is missing; restore it from a copy") from error
        except OSError as error:
            raise failed(path, "read", error) from error
        except (ValueError, RuntimeError) as error:
            raise StoreError(f"{path}: chunk is damaged ({error}); restore it from a copy") from error

    def encode(self, values: Flat) -> bytes:
        """The bytes of a chunk that begins with `values`; what is left of it holds zeros or empty strings."""
        whole = np.full((self.size, *self.leaf.shape), "" if self._is_text else 0, self._dtype)
        whole[: len(values)] = values
        packed = bytes(Zstd(level=LEVEL).encode(VLenUTF8().encode(whole) if self._is_text else whole))
        return packed + CHECKSUM.pack(google_crc32c.value(packed))

    def decode(self, data: bytes) -> Flat:
        """The elements of a chunk; raises `ValueError` or `RuntimeError` where they are not what was written."""
        packed = data[: -CHECKSUM.size]
        if len(data) < CHECKSUM.size or CHECKSUM.unpack(data[-CHECKSUM.size :])[0] != google_crc32c.value(packed):
            raise ValueError("its checksum differs")
        raw = Zstd().decode(packed)
        if self._is_text:
            text: Flat = VLenUTF8().decode(raw)
            return text.reshape(self.size)
        return np.frombuffer(raw, self._dtype).reshape(self.size, *self.leaf.shape)

    @property
    def _is_text(self) -> bool:
        return self.leaf.dtype == "string"

    @property
    def _dtype(self) -> "np.dtype[Any]":
        return np.dtype(object if self._is_text else self.leaf.dtype)


@lru_cache(maxsize=4096)
def _description(leaf: Leaf, chunk: int) -> bytes:
    """The metadata of an array in chunks of so many elements, with `LENGTH` where its length goes."""
    text = leaf.dtype == "string"
    plain = {"name": "bytes"} | ({} if leaf.dtype in ("bool", "int8", "uint8") else LITTLE_ENDIAN)
    described = {
        "shape": [0, *leaf.shape],
        "data_type": leaf.dtype,
        "chunk_grid": _named("regular", chunk_shape=[chunk, *(max(1, n) for n in leaf.shape)]),
        "chunk_key_encoding": _named("default", separator="/"),
        "fill_value": "" if text else np.zeros((), leaf.dtype).item(),
        "codecs": [
            {"name": "vlen-utf8", "configuration": {}} if text else plain,
            _named("zstd", level=LEVEL, checksum=False),
            {"name": "crc32c"},
        ],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    before, after = json.dumps(described, indent=2).encode().split(b"[\n    0", 1)
    return before + b"[\n    " + LENGTH + after


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}
