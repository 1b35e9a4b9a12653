"""Data sets that are read whole, as Arrow tables."""

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.nodes.source.data.epoch import enough_rows, shuffled_rows
from genrl_graph.nodes.source.data.holdout import held_out
from genrl_graph.nodes.source.data.load_table import load_table
from genrl_graph.nodes.source.data.records import RowReader


class TabledRows:
    """The wanted columns of all rows; the share `holdout` of them is held out from training."""

    def __init__(self, table: pa.Table, *, holdout: float) -> None:
        self.size: int | None = table.num_rows
        self._table = table
        held = held_out(np.arange(table.num_rows, dtype=np.int64), holdout)
        self._training, self._held_out = np.flatnonzero(~held), np.flatnonzero(held)

    def record(self, row: int) -> dict[str, Any]:
        """The columns of one row."""
        (record,) = self._table.slice(row, 1).to_pylist()
        return dict(record)

    def check(self, num_tasks: int) -> None:
        """Raises `DataError` where there are fewer rows to train on."""
        enough_rows(num_tasks=num_tasks, size=len(self._training))

    def training(self, rng: np.random.Generator, *, round: int, num_tasks: int) -> list[int]:
        """The rows of a training round, shuffled without replacement, epoch after epoch."""
        self.check(num_tasks)
        drawn = shuffled_rows(rng, round=round, num_tasks=num_tasks, size=len(self._training))
        return [int(self._training[place]) for place in drawn]

    def evaluation(self, rng: np.random.Generator, *, num_tasks: int) -> list[int]:
        """A draw from the held-out rows, or all where they are fewer."""
        kept = rng.permutation(len(self._held_out))[:num_tasks]
        return [int(self._held_out[place]) for place in np.sort(kept)]


@lru_cache(maxsize=8)  # shared by all peers of a process and by copies of a source
def open_table(
    reader: RowReader, name: str | None, split: str, holdout: float, _: tuple[int, int] | None
) -> TabledRows:
    """The rows of a data set, read again where the file changed; raises `DataError` naming the first bad row."""
    table = load_table(reader.path, name=name, split=split)
    reader.require_columns(table.column_names)
    for column, mark in reader.required:
        _check_values(reader, table, column, mark)
    return TabledRows(table.select(reader.wanted), holdout=holdout)


def _check_values(reader: RowReader, table: pa.Table, name: str, mark: str | None) -> None:
    """A row without a question or answer is found here, before the first round and not in the hundredth."""
    column = table.column(name)
    bad, told = pc.is_null(column), None
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        found = pc.match_substring(column, mark) if mark else pc.greater(pc.utf8_length(column), 0)
        bad, told = pc.invert(pc.fill_null(found, False)), mark
    row = pc.index(bad, pa.scalar(True)).as_py()
    if row >= 0:
        raise reader.bad_value(row, name, told)
