"""Streamed data sets: rows are read block by block in the order of the stream, never all at once."""

import atexit
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from genrl_graph.errors import DataError
from genrl_graph.nodes.source.data.checked import checked_rows, remember
from genrl_graph.nodes.source.data.data_set import DataSet, DataState, data_state, is_local
from genrl_graph.nodes.source.data.epoch import require_enough_rows
from genrl_graph.nodes.source.data.holdout import held_out
from genrl_graph.nodes.source.data.open_data_set import open_data_set
from genrl_graph.nodes.source.data.read_rows import Row
from genrl_graph.nodes.source.data.records import TaskReader, valid_rows
from genrl_graph.seeds import substream

if TYPE_CHECKING:
    from numpy.typing import NDArray

CACHED_BLOCKS = 4


class Stream:
    """Rows of a stream with the columns of `reader`, in blocks of `block` rows; the last used few stay in memory.

    An evicted block is read again with a second iterator, so the sequential one keeps its position. `size` is the
    number of rows, None until the end of the stream was read.
    """

    def __init__(self, reader: TaskReader, name: str | None, split: str, *, block: int) -> None:
        self.size: int | None = None
        self.block, self.path = block, reader.path
        self._reader, self._name, self._split = reader, name, split
        self._data: DataSet | None = None
        self._is_checked = False
        self._blocks: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()
        self._iterator: Iterator[Row] | None = None
        self._next = 0  # the next block of `_iterator`

    def check(self) -> None:
        """Read every row of a local stream once, or the first block of one on the hub; raise `DataError` for a bad row.

        The rows of the hub are checked block by block as a run comes to them: a stream may be larger than any disk.
        """
        if not is_local(self.path):
            self.rows(0)
        elif not self._is_checked:
            state, key = data_state(self.path), (self._reader, self._name, self._split)
            self.size = checked_rows(state, key)
            if self.size is None:
                self.size = sum(1 for _ in valid_rows(self._reader, self._open_data()))
                remember(state, key, self.size)
            self._is_checked = True

    def rows(self, number: int) -> list[dict[str, Any]]:
        """Return the rows of a block, empty beyond the end; raises `DataError` for a row that is not a valid task."""
        if self.size is not None and number * self.block >= self.size:
            return []
        if number not in self._blocks:
            rows = enumerate(self._read(number), start=number * self.block)
            self._blocks[number] = [self._reader.select(where, row, values) for row, (where, values) in rows]
            while len(self._blocks) > CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _read(self, number: int) -> list[Row]:
        if number < self._next:
            return list(islice(self._open(number), self.block))
        iterator = self._iterator if number == self._next else None
        self._iterator = None  # an iterator that fails is not used again
        iterator = iterator or self._open(number)
        rows = list(islice(iterator, self.block))
        self._iterator, self._next = iterator, number + 1
        if len(rows) < self.block:
            self._iterator, self._next = None, 0
            self.size = number * self.block + len(rows) if rows else self._count()
        return rows

    def _open(self, number: int) -> Iterator[Row]:
        return self._open_data().rows(number * self.block, self._reader.read_columns)

    def _open_data(self) -> DataSet:
        if self._data is None:
            self._data = open_data_set(self.path, name=self._name, split=self._split, streaming=True)
        return self._data

    def _count(self) -> int:
        return sum(1 for _ in self._open(0))


class TrainingBlocks:
    """The rows of each block that are not held out; all but the last block are full."""

    def __init__(self, block: int, holdout: float) -> None:
        self._block, self._holdout = block, holdout
        self._before = [0]  # number of training rows before each block

    def rows(self, number: int, end: int | None) -> "NDArray[np.int64]":
        """Return the training rows of a block; `end` is the number of rows of the stream (None: unknown)."""
        first, last = number * self._block, (number + 1) * self._block
        rows = np.arange(first, last if end is None else min(last, end), dtype=np.int64)
        return rows[~held_out(rows, self._holdout)] if self._holdout else rows

    def locate(self, position: int) -> tuple[int, int]:
        """Return the block of the training row at a position in the stream, and its place in the block."""
        while self._before[-1] <= position:
            self._extend()
        number = bisect_right(self._before, position) - 1
        return number, position - self._before[number]

    def count(self, end: int) -> int:
        """Return the number of training rows among the first `end` rows."""
        number = end // self._block
        while len(self._before) <= number:
            self._extend()
        return self._before[number] + len(self.rows(number, end))

    def _extend(self) -> None:
        self._before.append(self._before[-1] + len(self.rows(len(self._before) - 1, None)))


class StreamedRows:
    """Samples rows of a stream; the share `holdout` of its rows is held out from training."""

    def __init__(self, stream: Stream, *, holdout: float) -> None:
        self._stream, self._holdout = stream, holdout
        self._blocks = TrainingBlocks(stream.block, holdout)
        self._held_out: dict[int, Mapping[str, Any]] = {}  # the first held-out rows, cached for every evaluation
        self._searched = 0  # number of blocks searched for them

    @property
    def size(self) -> int | None:
        """The number of rows, None until the end of the stream was read."""
        return self._stream.size

    def record(self, row: int) -> Mapping[str, Any]:
        """Return the columns of one row; raises `DataError` for a row beyond the end."""
        if row in self._held_out:
            return self._held_out[row]
        number, place = divmod(row, self._stream.block)
        rows = self._stream.rows(number)
        if place >= len(rows):
            problem = f"there is no row {row}, but {self.size} rows; is it from a larger copy of the data?"
            raise DataError(f"{self._stream.path}: {problem}")
        return rows[place]

    def check(self, num_tasks: int) -> None:
        """Check the rows (`Stream.check`); raises `DataError` for a bad row, or if there are too few."""
        self._stream.check()
        if self.size is not None:
            require_enough_rows(num_tasks=num_tasks, size=self._blocks.count(self.size))

    def training(self, rng: np.random.Generator, *, round: int, num_tasks: int) -> list[int]:
        """Return the rows of a training round: the blocks in stream order, the rows of each block shuffled.

        An epoch ends with its last full round; the rows left over differ from epoch to epoch.
        """
        if self.size is None:
            last, _ = self._blocks.locate((round + 1) * num_tasks - 1)
            self._stream.rows(last)
        epoch, batch = 0, round
        if self.size is not None:
            total = self._blocks.count(self.size)
            require_enough_rows(num_tasks=num_tasks, size=total)
            epoch, batch = divmod(round, total // num_tasks)
        positions = range(batch * num_tasks, (batch + 1) * num_tasks)
        return [self._permuted(rng, epoch, position) for position in positions]

    def _permuted(self, rng: np.random.Generator, epoch: int, position: int) -> int:
        number, place = self._blocks.locate(position)
        rows = self._blocks.rows(number, self.size)
        return int(rows[substream(rng, "block", epoch, number).permutation(len(rows))[place]])

    def evaluation(self, rng: np.random.Generator, *, num_tasks: int) -> list[int]:
        """Return the first held-out rows of the stream, at most `num_tasks`."""
        while len(self._held_out) < num_tasks and (rows := self._stream.rows(self._searched)):
            first = self._searched * self._stream.block
            numbers = np.arange(first, first + len(rows), dtype=np.int64)
            self._held_out |= {row: rows[row - first] for row in numbers[held_out(numbers, self._holdout)].tolist()}
            self._searched += 1
        return list(self._held_out)[:num_tasks]


@lru_cache(maxsize=8)  # shared by all peers of a process and by copies of a source
def open_stream(
    reader: TaskReader, name: str | None, split: str, holdout: float, block: int, _: DataState
) -> StreamedRows:
    """Open a stream; the last argument keys the cache by the state of the files."""
    return StreamedRows(Stream(reader, name, split, block=block), holdout=holdout)


atexit.register(open_stream.cache_clear)  # iterators must close before the modules that they need are unloaded
