"""The body of a packet: the values of all columns as consecutive flat arrays, in column order.

    number              the values; booleans are bytes 0 and 1
    fixed_shape_tensor  the values
    string              the lengths in bytes, int32, then the text, utf-8
    list                the lengths, int32, then the arrays of the elements
    struct              the arrays of each field

The body holds no redundant sizes: the lengths before an array give its size, and the last array ends with the body.
Memory allocated for a hostile body is therefore bounded by the size of the body.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrl_graph.errors import PeerRefused
from genrl_graph.messages import short

MOST_IN_AN_ARRAY = 2**31 - 1  # largest int32 offset of Arrow


def parts(array: pa.Array) -> Iterator[memoryview]:
    """Yield the flat arrays of a column without nulls as bytes, without a copy where possible."""
    if isinstance(array.type, pa.FixedShapeTensorType):
        yield from parts(array.storage.flatten())
    elif pa.types.is_struct(array.type):
        for field in array.flatten():
            yield from parts(field)
    elif pa.types.is_list(array.type):
        yield _bytes(np.diff(array.offsets.to_numpy(zero_copy_only=False)).astype("<i4"))
        yield from parts(array.flatten())
    elif pa.types.is_string(array.type):
        _, offsets, text = array.buffers()
        bounds = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1] if len(array) else [0]
        yield _bytes(np.diff(bounds).astype("<i4"))
        yield memoryview(text if text is not None else b"")[bounds[0] : bounds[-1]]
    elif not pa.types.is_null(array.type):
        values = array.to_numpy(zero_copy_only=False)
        yield _bytes(values.astype(values.dtype.newbyteorder("<"), copy=False))


def _bytes(values: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).view("u1").data


class Body:
    """Reads consecutive flat arrays from a body; the arrays may share memory with the body, which must not change."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def array(self, dtype: pa.DataType, path: str, count: int) -> pa.Array:
        """Read `count` values of a type; raises `PeerRefused` if the body is too short or its values are invalid."""
        if isinstance(dtype, pa.FixedShapeTensorType):
            return self._tensors(dtype, path, count)
        if pa.types.is_struct(dtype):
            children = [self.array(field.type, f"{path}.{field.name}", count) for field in dtype]
            return pa.StructArray.from_arrays(children, fields=list(dtype))
        if pa.types.is_list(dtype):
            bounds = self._bounds(path, count)
            values = self.array(dtype.value_type, f"{path}[]", int(bounds[-1]))
            return pa.ListArray.from_arrays(pa.array(bounds), values, type=dtype)
        if pa.types.is_string(dtype):
            bounds = self._bounds(path, count)
            text = self._take(path, np.dtype("u1"), int(bounds[-1]))
            return pa.StringArray.from_buffers(count, pa.py_buffer(bounds), pa.py_buffer(text))
        if pa.types.is_null(dtype):
            return pa.nulls(count) if not count else refuse("body", f"{path} has {count} values of no type")
        if pa.types.is_boolean(dtype):
            return pa.array(self._booleans(path, count))
        values = self._take(path, np.dtype(dtype.to_pandas_dtype()), count)
        return pa.Array.from_buffers(dtype, count, [None, pa.py_buffer(values)])

    def end(self) -> None:
        """Raise `PeerRefused` if bytes remain after the last column."""
        if self._at != len(self._data):
            refuse("body", f"{len(self._data) - self._at} bytes stand behind the last column")

    def _tensors(self, dtype: pa.DataType, path: str, count: int) -> pa.Array:
        width = prod(dtype.shape)
        if count and not width:
            refuse("body", f"{path} has {count} tensors that hold nothing")
        flat = self.array(dtype.value_type, path, count * width)
        if not count:
            return pa.array([], dtype)
        return pa.ExtensionArray.from_storage(dtype, pa.FixedSizeListArray.from_arrays(flat, width))

    def _booleans(self, path: str, count: int) -> NDArray[np.bool_]:
        values = self._take(path, np.dtype("u1"), count)
        if values.max(initial=0) > 1:
            refuse("body", f"{path} holds the byte {values.max()}, not 0 or 1 as booleans do")
        return values.astype(np.bool_)

    def _bounds(self, path: str, count: int) -> NDArray[np.int32]:
        """Read the lengths of `count` lists or texts and return their offsets, shape (count + 1,)."""
        lengths = self._take(path, np.dtype("i4"), count)
        if lengths.min(initial=0) < 0:
            refuse("body", f"{path} has the length {lengths.min()}")
        total = int(lengths.sum(dtype=np.int64))
        at_most("body", total, min(len(self._data) - self._at, MOST_IN_AN_ARRAY), path)
        bounds = np.zeros(count + 1, np.int32)
        np.cumsum(lengths, out=bounds[1:])
        return bounds

    def _take(self, path: str, dtype: "np.dtype[Any]", count: int) -> NDArray[Any]:
        at_most("body", count * dtype.itemsize, len(self._data) - self._at, path)
        start, self._at = self._at, self._at + count * dtype.itemsize
        little = np.frombuffer(self._data[start : self._at], dtype.newbyteorder("<"))
        return little if little.flags.aligned and little.dtype.isnative else little.astype(dtype)


def at_most(rule: str, value: int, most: int, path: str = "") -> None:
    """Raise `PeerRefused` if a value is above its limit; `path` names the column that claims it."""
    if value > most:
        refuse(rule, f"{path + ' claims ' if path else ''}{short(value)}, of {most} at most")


def refuse(rule: str, reason: str) -> NoReturn:
    """Raise `PeerRefused` with the message `<rule>: <reason>`."""
    raise PeerRefused(f"{rule}: {reason}")
