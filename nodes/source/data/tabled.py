"""Data sets that are loaded whole."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from genrl_graph.nodes.source.data.data_set import DataState
from genrl_graph.nodes.source.data.epoch import require_enough_rows, shuffled_rows
from genrl_graph.nodes.source.data.holdout import held_out
from genrl_graph.nodes.source.data.open_data_set import open_data_set
from genrl_graph.nodes.source.data.records import TaskReader, valid_rows

_CHUNK = 16_384


class TabledRows:
    """All rows of a data set; the share `holdout` of them is held out from training."""

    def __init__(self, records: pa.ChunkedArray, *, holdout: float) -> None:
        self.size: int | None = len(records)
        self._records = records  # as JSON: a tenth of the memory of Python objects, and any nesting
        is_held_out = held_out(np.arange(len(records), dtype=np.int64), holdout)
        self._training, self._held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)

    def record(self, row: int) -> Mapping[str, Any]:
        """Return the columns of one row."""
        record: dict[str, Any] = json.loads(self._records[row].as_py())
        return record

    def check(self, num_tasks: int) -> None:
        """Raise `DataError` if there are fewer than `num_tasks` training rows."""
        require_enough_rows(num_tasks=num_tasks, size=len(self._training))

    def training(self, rng: np.random.Generator, *, round: int, num_tasks: int) -> list[int]:
        """Sample the rows of a training round without replacement; every epoch is a new permutation."""
        self.check(num_tasks)
        drawn = shuffled_rows(rng, round=round, num_tasks=num_tasks, size=len(self._training))
        return [int(self._training[place]) for place in drawn]

    def evaluation(self, rng: np.random.Generator, *, num_tasks: int) -> list[int]:
        """Sample `num_tasks` held-out rows, or return all if there are fewer."""
        drawn = rng.permutation(len(self._held_out))[:num_tasks]
        return [int(self._held_out[place]) for place in np.sort(drawn)]


@lru_cache(maxsize=8)  # shared by all peers of a process and by copies of a source
def open_table(reader: TaskReader, name: str | None, split: str, holdout: float, _: DataState) -> TabledRows:
    """Load all rows and check each; raises `DataError` naming the first bad one.

    The last argument keys the cache by the state of the files.
    """
    data = open_data_set(reader.path, name=name, split=split, streaming=False)
    chunks = [pa.array(map(json.dumps, some), pa.string()) for some in _batched(valid_rows(reader, data), _CHUNK)]
    return TabledRows(pa.chunked_array(chunks), holdout=holdout)


def _batched(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Yield lists of `size` rows; the last one may be shorter."""
    while some := list(islice(rows, size)):
        yield some
