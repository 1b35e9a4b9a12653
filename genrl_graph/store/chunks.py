"""The files of one zarr v3 array: metadata, and chunks of fixed length, each compressed and checksummed.

The files are byte for byte those of the zarr package, which can read them. We write them ourselves because its writer
takes about 5 ms of CPU time per array and append, most of the time of a block of small columns, and because each file
must be synced to the disk before its rows are published.
"""

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd

from genrl_graph.arrow.flat import Flat
from genrl_graph.arrow.schema import Leaf
from genrl_graph.errors import StoreError
from genrl_graph.store.durable import failed
from genrl_graph.store.run_path import RunPath

LEVEL = 1  # of zstd: on token ids twice as fast as level 3, and 2 % larger
STRINGS_A_CHUNK = 4_096
ROWS_A_CHUNK = 16_384
VALUE_BYTES_A_CHUNK = 2 * 2**20
CHECKSUM = struct.Struct("<I")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LENGTH = b"<length>"
LITTLE_ENDIAN = {"configuration": {"endian": "little"}}
MAX_TEXT_BYTES = 2**30  # of the texts of one chunk
MAX_CHUNK_BYTES = MAX_TEXT_BYTES + 2**20
READERS = 4  # threads that decompress
BYTES_FOR_THREADS = 8 * 2**20  # a smaller read is faster in one thread


def longest_short_text() -> int:
    """Return the bytes of the longest text of which a chunk always has room for as many as it holds."""
    return MAX_TEXT_BYTES // 2 // STRINGS_A_CHUNK - 8  # each text has a length of four bytes


@dataclass(frozen=True, slots=True)
class ChunkedArray:
    """The array of one leaf, in a folder of its own; element i is in chunk i // `size`.

    One that `salvages` also reads damaged chunks, as far as they can be decoded: to tell which rows are not what they
    were.
    """

    folder: RunPath
    leaf: Leaf
    salvages: bool = False

    @property
    def size(self) -> int:
        """The number of elements in a chunk: fewer where a row has one element, more where a row has a list of them."""
        if self._is_text:
            return STRINGS_A_CHUNK
        width = max(1, int(np.prod(self.leaf.shape)))
        if self.leaf.level == "":
            return max(1, ROWS_A_CHUNK // width)
        return max(1, VALUE_BYTES_A_CHUNK // (width * np.dtype(self.leaf.dtype).itemsize))

    @property
    def metadata(self) -> RunPath:
        """The path of the metadata file."""
        return self.folder / "zarr.json"

    def chunk(self, number: int) -> RunPath:
        """Return the path of a chunk."""
        path = self.folder / "c" / str(number)
        for _ in self.leaf.shape:
            path /= "0"
        return path

    def chunks(self, length: int) -> range:
        """Return the numbers of the chunks of an array with `length` elements."""
        return range(-(-length // self.size))

    def describe(self, length: int) -> bytes:
        """Return the metadata file of the array with `length` elements."""
        return _array_metadata(self.leaf, self.size).replace(LENGTH, b"%d" % length, 1)

    def files(self, values: Flat, at: int) -> Iterator[tuple[RunPath, bytes]]:
        """Yield the files (path, bytes) that change when the array is cut at element `at` and `values` are appended.

        Raises `StoreError` where the chunk that is partly filled is missing or damaged.
        """
        length = at + len(values)
        first, filled = divmod(at, self.size)
        if filled and len(values):
            values = np.concatenate([self.load(first)[:filled], values])
        for number, start in enumerate(range(0, len(values), self.size), start=first):
            yield self.chunk(number), self.encode(values[start : start + self.size])
        yield self.metadata, self.describe(length)

    def require_room(self, values: Flat, at: int) -> None:
        """Raise `StoreError` where texts from element `at` on would leave a chunk without room for short ones.

        Half of the bytes of a chunk are kept for texts that are not long, which are therefore stored without a check.
        """
        short = longest_short_text()
        first, filled = divmod(at, self.size)
        excess = np.maximum([len(text.encode()) - short for text in values], 0)
        if not excess.any():
            return
        before = [len(text.encode()) - short for text in self.load(first)[:filled]] if filled else []
        excess = np.concatenate([np.maximum(before, 0), excess])
        for start in range(0, len(excess), self.size):
            if (size := int(excess[start : start + self.size].sum())) > MAX_TEXT_BYTES // 2:
                what = f"{size} bytes of long texts in {self.size} texts, of {MAX_TEXT_BYTES // 2} at most"
                raise StoreError(f"{self.folder}: {what}; store shorter texts")

    def read(self, start: int, stop: int) -> Flat:
        """Read the elements from start to stop; raises `StoreError` where a chunk is missing or damaged."""
        if stop <= start:
            return np.empty((0, *self.leaf.shape), self._dtype)
        numbers = range(start // self.size, -(-stop // self.size))
        if len(numbers) == 1:
            begin = numbers[0] * self.size
            return self.load(numbers[0])[start - begin : stop - begin]
        self._require(numbers)
        values = np.empty((stop - start, *self.leaf.shape), self._dtype)

        def copy_chunk(number: int) -> None:
            begin = number * self.size
            first, last = max(start, begin), min(stop, begin + self.size)
            values[first - start : last - start] = self.load(number)[first - begin : last - begin]

        if values.nbytes < BYTES_FOR_THREADS or self._is_text:
            for number in numbers:
                copy_chunk(number)
            return values
        with ThreadPoolExecutor(READERS) as pool:
            for future in [pool.submit(copy_chunk, number) for number in numbers]:
                future.result()
        return values

    def load(self, number: int) -> Flat:
        """Read a whole chunk, padding after the end of the array included; raises `StoreError` as `read` does."""
        path = self.chunk(number)
        try:
            return self.decode(path.read(MAX_CHUNK_BYTES))
        except FileNotFoundError as error:
            raise self._missing(number) from error
        except OSError as error:
            raise failed(path.path, "read", error) from error
        except (ValueError, RuntimeError) as error:
            raise StoreError(f"{path}: chunk is damaged ({error}); restore it from a copy") from error

    def encode(self, values: Flat) -> bytes:
        """Return the bytes of a chunk that begins with `values`, padded with zeros or empty strings."""
        padded = np.full((self.size, *self.leaf.shape), "" if self._is_text else 0, self._dtype)
        padded[: len(values)] = values
        raw = VLenUTF8().encode(padded) if self._is_text else padded
        if self._is_text and len(raw) > MAX_TEXT_BYTES:
            what = f"{self.size} texts of {len(raw)} bytes, of {MAX_TEXT_BYTES} at most"
            raise StoreError(f"{self.folder}: {what}; store shorter texts")
        packed = bytes(Zstd(level=LEVEL).encode(raw))
        return packed + CHECKSUM.pack(google_crc32c.value(packed))

    def decode(self, data: bytes) -> Flat:
        """Return the elements of a chunk; raises `ValueError` or `RuntimeError` where its bytes are damaged."""
        packed = data[: -CHECKSUM.size]
        checksum = data[-CHECKSUM.size :]
        if not self.salvages and checksum != CHECKSUM.pack(google_crc32c.value(packed)):
            raise ValueError("its checksum differs")
        size = content_size(packed)
        if self._is_text:
            return self._decode_text(packed, size)
        if size != self._width * self.size:
            raise ValueError(f"it holds {size} bytes, not {self._width * self.size}")
        raw = Zstd().decode(packed)
        if self.leaf.dtype == "bool" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
            raise ValueError("it holds a boolean that is neither 0 nor 1")
        return np.frombuffer(raw, self._dtype).reshape(self.size, *self.leaf.shape)

    def _decode_text(self, packed: bytes, size: int) -> Flat:
        if size > MAX_TEXT_BYTES:
            raise ValueError(f"it holds {size} bytes of text, of {MAX_TEXT_BYTES} at most")
        raw = bytes(Zstd().decode(packed))
        count = int.from_bytes(raw[:4], "little")
        if count != self.size:
            raise ValueError(f"it holds {count} texts, not {self.size}")
        text: Flat = np.array(_salvaged(raw, count), object) if self.salvages else VLenUTF8().decode(raw)
        return text.reshape(self.size)

    def _require(self, numbers: range) -> None:
        """Raise `StoreError` where a chunk is missing, before memory is taken for all of them."""
        for number in numbers:
            if not self.chunk(number).is_file():
                raise self._missing(number)

    def _missing(self, number: int) -> StoreError:
        return StoreError(f"{self.chunk(number)}: chunk is missing; restore it from a copy")

    @property
    def _width(self) -> int:
        """The bytes of one element that is no text."""
        return int(np.prod(self.leaf.shape, dtype=np.int64)) * self._dtype.itemsize

    @property
    def _is_text(self) -> bool:
        return self.leaf.dtype == "string"

    @property
    def _dtype(self) -> "np.dtype[Any]":
        return np.dtype(object if self._is_text else self.leaf.dtype)


def _salvaged(raw: bytes, count: int) -> list[str]:
    """Return texts of which some bytes may be damaged: each behind its length, of four bytes."""
    texts, at = [], 4
    for _ in range(count):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        texts.append(raw[at + 4 : end].decode(errors="replace"))
        at = end
    return texts


def content_size(packed: bytes) -> int:
    """Return the size that a zstd frame says it has unpacked (RFC 8878, 3.1.1.1); `ValueError` where it does not."""
    head = packed[4] if len(packed) > 4 else 0
    single, flag = bool(head & 0x20), head >> 6
    width = (int(single), 2, 4, 8)[flag]
    at = 5 + (not single) + (0, 1, 2, 4)[head & 3]
    if packed[:4] != ZSTD_MAGIC or not width or len(packed) < at + width:
        raise ValueError("it is no zstd frame of a known size")
    return int.from_bytes(packed[at : at + width], "little") + (256 if width == 2 else 0)


@lru_cache(maxsize=4096)
def _array_metadata(leaf: Leaf, chunk: int) -> bytes:
    """Return the metadata file of an array with chunks of `chunk` elements; `LENGTH` stands in place of its length."""
    text = leaf.dtype == "string"
    plain = {"name": "bytes"} | ({} if leaf.dtype in ("bool", "int8", "uint8") else LITTLE_ENDIAN)
    metadata = {
        "shape": [0, *leaf.shape],
        "data_type": leaf.dtype,
        "chunk_grid": _codec_json("regular", chunk_shape=[chunk, *(max(1, n) for n in leaf.shape)]),
        "chunk_key_encoding": _codec_json("default", separator="/"),
        "fill_value": "" if text else np.zeros((), leaf.dtype).item(),
        "codecs": [
            {"name": "vlen-utf8", "configuration": {}} if text else plain,
            _codec_json("zstd", level=LEVEL, checksum=False),
            {"name": "crc32c"},
        ],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    before, after = json.dumps(metadata, indent=2).encode().split(b"[\n    0", 1)
    return before + b"[\n    " + LENGTH + after


def _codec_json(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}
