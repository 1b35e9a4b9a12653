"""Base class of sources that provide rows of a data set, on disk or on the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from genrl_graph.contract.data_path import DataPath
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Source
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.data.data_files import SUFFIXES
from genrl_graph.nodes.source.data.data_set import data_state, is_local, local_data_set
from genrl_graph.nodes.source.data.epoch import EVAL_KEY_PREFIX, as_rows, row_of
from genrl_graph.nodes.source.data.records import TaskReader
from genrl_graph.nodes.source.data.streamed import open_stream
from genrl_graph.nodes.source.data.tabled import open_table
from genrl_graph.seeds import stream


class DatasetRows(Protocol):
    """Access to the rows of one split: training rows, held-out rows, and any row by its number."""

    @property
    def size(self) -> int | None:
        """The number of rows; None while unknown."""
        ...

    def record(self, row: int) -> Mapping[str, Any]:
        """Return the columns of one row."""
        ...

    def check(self, num_tasks: int) -> None:
        """Raise `DataError` for a bad row, or if there are fewer than `num_tasks` training rows."""
        ...

    def training(self, rng: np.random.Generator, *, round: int, num_tasks: int) -> list[int]:
        """Sample the rows of a training round."""
        ...

    def evaluation(self, rng: np.random.Generator, *, num_tasks: int) -> list[int]:
        """Return at most `num_tasks` held-out rows."""
        ...


class RowSource(Source):
    """Provides `num_tasks` rows of a data set per round, sampled without replacement; every epoch is reshuffled.

    A subclass says how a row is read. The key of a task is its row number.
    """

    path: DataPath = Field(
        min_length=1,
        description="JSONL, CSV or Parquet file, a folder, or a name on the hub; a relative path starts at "
        "the graph file",
    )
    name: str | None = Field(
        default=None, description="subset (config) of the data set; null: the default of the hub name"
    )
    split: str = Field(default="train", description="split to train on")
    eval_split: str | None = Field(
        default=None, description="split for evaluations; null: the share holdout of the rows, if any"
    )
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the rows kept for evaluations, chosen by a hash of the row number",
    )
    num_tasks: int = Field(default=8, ge=1, description="rows per round")
    streaming: bool = Field(
        default=False,
        description="whether rows are read block by block and never all at once, for data larger than memory",
    )
    shuffle_block: int = Field(
        default=1000, ge=1, description="streaming: rows of a block, which is shuffled in itself"
    )

    _evaluating: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _held_out_apart(self) -> Self:
        if self.eval_split is not None and self.holdout:
            raise ValueError("give eval_split or holdout, not both")
        if self.eval_split == self.split:
            raise ValueError(f"eval_split {self.eval_split!r} is what it trains on; name another split or set holdout")
        if self.eval_split is not None and Path(self.path).suffix.lower() in SUFFIXES:
            raise ValueError(f"{Path(self.path).name} is one file, which has no split {self.eval_split!r}; set holdout")
        return self

    def prepare(self) -> None:
        """Read and check every row; raises `DataError` for a bad one, or for data that is missing or too small."""
        if not self._evaluating:
            self._rows("").check(self.num_tasks)
        if self._holds_out:
            self._rows(self._eval_prefix).check(0)
            self._held_out(stream("prepare"), num_tasks=1)

    def check_data(self) -> Iterator[str]:
        """Report a missing file or column of local data, from names and headers alone."""
        if not is_local(self.path):
            return
        for split in (self.split, self.eval_split):
            if split is None:
                continue
            try:
                names = local_data_set(self.path, name=self.subset, split=split).header()
                if names is not None:
                    self._reader.require_columns(names)
            except DataError as error:
                yield str(error)

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        """Return the tasks of one round."""
        if self._evaluating:
            return as_rows(self._held_out(rng, num_tasks=self.num_tasks))
        rows = self._rows("")
        drawn = rows.training(rng, round=round, num_tasks=self.num_tasks)
        return as_rows([self._task(rows, row) for row in drawn])

    def resolve(self, task_id: str) -> Task:
        """Return the task of an id; raises `DataError` for an id without a valid row."""
        node = self.place.node
        prefix = self._eval_prefix if task_id.startswith(f"{node}/{EVAL_KEY_PREFIX}") else ""
        rows = self._rows(prefix)
        return self._task(rows, row_of(task_id, node=node, size=rows.size, prefix=prefix), prefix)

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that provides held-out rows: the first of a stream, else a random sample, at most all."""
        if not self._holds_out:
            raise ParamError(f"{self.type_name}: has no tasks to evaluate on; set eval_split or holdout")
        copy = self.model_copy(update={"num_tasks": how.num_tasks or self.num_tasks})
        copy._evaluating = True
        return copy

    @property
    def subset(self) -> str | None:
        """The subset of the data set."""
        return self.name

    @property
    def _holds_out(self) -> bool:
        return self.eval_split is not None or self.holdout > 0

    @property
    def _eval_prefix(self) -> str:
        return EVAL_KEY_PREFIX if self.eval_split is not None else ""

    @property
    def _reader(self) -> TaskReader:
        raise NotImplementedError

    def _rows(self, prefix: str) -> DatasetRows:
        """Return the rows whose keys begin with `prefix`; all rows of `eval_split` count as held out."""
        split, holdout = (self.split, self.holdout) if not prefix else (self.eval_split or "", 1.0)
        name, state = self.subset, data_state(self.path)
        if self.streaming:
            return open_stream(self._reader, name, split, holdout, self.shuffle_block, state)
        return open_table(self._reader, name, split, holdout, state)

    def _held_out(self, rng: np.random.Generator, *, num_tasks: int) -> list[Task]:
        prefix = self._eval_prefix
        rows = self._rows(prefix)
        drawn = rows.evaluation(rng, num_tasks=num_tasks)
        if not drawn:
            raise DataError(f"{self.path}: holdout {self.holdout} of its rows is none; raise it")
        return [self._task(rows, row, prefix) for row in drawn]

    def _task(self, rows: DatasetRows, row: int, prefix: str = "") -> Task:
        return self._reader.task(self.task_id(f"{prefix}{row}"), f"{self.path}: row {row}", rows.record(row))
