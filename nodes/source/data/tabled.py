"""Data sets that are loaded whole, as Arrow tables."""

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.nodes.source.data.epoch import require_enough_rows, shuffled_rows
from genrl_graph.nodes.source.data.holdout import held_out
from genrl_graph.nodes.source.data.load_table import load_table
from genrl_graph.nodes.source.data.records import RowReader


class TabledRows:
    """All rows of a data set; the share `holdout` of them is held out from training."""

    def __init__(self, table: pa.Table, *, holdout: float) -> None:
        self.size: int | None = table.num_rows
        self._table = table
        is_held_out = held_out(np.arange(table.num_rows, dtype=np.int64), holdout)
        self._training, self._held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)

    def record(self, row: int) -> dict[str, Any]:
        """Return the columns of one row."""
        (record,) = self._table.slice(row, 1).to_pylist()
        return dict(record)

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
def open_table(
    reader: RowReader, name: str | None, split: str, holdout: float, _: tuple[int, int] | None
) -> TabledRows:
    """Load and check a data set; raises `DataError` naming the first bad row.

    The last argument keys the cache by the file's state.
    """
    table = load_table(reader.path, name=name, split=split)
    reader.require_columns(table.column_names)
    for column, mark in reader.required:
        _check_values(reader, table, column, mark)
    return TabledRows(table.select(reader.read_columns), holdout=holdout)


def _check_values(reader: RowReader, table: pa.Table, name: str, mark: str | None) -> None:
    """Raise `DataError` for the first row without a question or answer, so it fails before the first round."""
    column = table.column(name)
    bad, missing_mark = pc.is_null(column), None
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        valid = pc.match_substring(column, mark) if mark else pc.greater(pc.utf8_length(column), 0)
        bad, missing_mark = pc.invert(pc.fill_null(valid, False)), mark
    row = pc.index(bad, pa.scalar(True)).as_py()
    if row >= 0:
        raise reader.bad_value(row, name, missing_mark)
