"""`source.hf_dataset`: tasks from a data set on disk or on the Hugging Face hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from genrl_graph.errors import DataError
from genrl_graph.frames import Tasks
from genrl_graph.node import Source
from genrl_graph.nodes.reward.answers import extract_answer
from genrl_graph.nodes.source.batch import as_rows, enough_rows, plain, row_of, shuffled_rows
from genrl_graph.nodes.source.reading import file_state, load_table
from genrl_graph.paths import DataPath
from genrl_graph.registry import did_you_mean
from genrl_graph.resources import Task

AnswerFrom = Literal["column", "gsm8k", "boxed"]
ANSWER_MARKS: Mapping[AnswerFrom, str] = {"gsm8k": "####", "boxed": "\\boxed"}


class Columns(BaseModel):
    """Which columns hold the question (text, or chat messages) and the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = "question"
    answer: str = "answer"


_DEFAULT = Columns()


@dataclass(frozen=True, slots=True)
class Preset:
    """What is known of a data set on the hub."""

    name: str | None = None
    columns: Columns = _DEFAULT
    answer_from: AnswerFrom = "column"


_SOLUTION = Columns(question="prompt", answer="solution")
PRESETS: Mapping[str, Preset] = {
    "openai/gsm8k": Preset("main", answer_from="gsm8k"),
    "open-r1/DAPO-Math-17k-Processed": Preset("en", _SOLUTION),
    "open-r1/Big-Math-RL-Verified-Processed": Preset("all", _SOLUTION),
}


class HfDataset(Source, name="hf_dataset"):
    """Gives `num_tasks` rows of a data set a round, shuffled without replacement, epoch after epoch.

    `path` is a JSONL, CSV or Parquet file, a folder, or a name on the hub; `name` the subset. The answer is the
    answer column, the text after its last `####` (gsm8k) or in its last box (boxed). Params left out are those
    known for the hub name (`PRESETS`). `metadata` names further columns to keep. The key of a task is its row.
    """

    path: DataPath = Field(min_length=1)
    name: str | None = None
    split: str = "train"
    columns: Columns | None = None
    answer_from: AnswerFrom | None = None
    metadata: list[str] = []
    num_tasks: int = Field(8, ge=1)

    def prepare(self) -> None:
        """Read the data set; raises `DataError` where it is missing, unreadable, too small or without a column."""
        enough_rows(num_tasks=self.num_tasks, size=self._table().num_rows)

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        """The tasks of one round."""
        table = self._table()
        enough_rows(num_tasks=self.num_tasks, size=table.num_rows)
        rows = shuffled_rows(rng, round=round, num_tasks=self.num_tasks, size=table.num_rows)
        return as_rows([self._task(table, row) for row in rows])

    def resolve(self, task_id: str) -> Task:
        """The task of an id; raises `DataError` for an id that names no row."""
        table = self._table()
        return self._task(table, row_of(task_id, node=self.place.node, size=table.num_rows))

    @property
    def preset(self) -> Preset:
        """What the params say, and the hub name where they say nothing."""
        known = PRESETS.get(self.path, Preset())
        name = self.name or known.name
        return Preset(name, self.columns or known.columns, self.answer_from or known.answer_from)

    def _table(self) -> pa.Table:
        return _open(self.path, self.preset, self.split, tuple(self.metadata), file_state(self.path))

    def _task(self, table: pa.Table, row: int) -> Task:
        known = self.preset
        (record,) = table.slice(row, 1).to_pylist()
        where = f"{self.path}: row {row}"
        messages = _messages(record[known.columns.question], f"{where}, column {known.columns.question!r}")
        answer = _answer(record[known.columns.answer], known.answer_from)
        if not answer:
            raise DataError(f"{where}: no answer in column {known.columns.answer!r} ({known.answer_from})")
        kept = plain({name: record[name] for name in self.metadata})
        return Task(self.task_id(row), messages, answer, kept, raw=record)


@lru_cache(maxsize=4)  # shared by all peers of a process and by copies of a source
def _open(path: str, known: Preset, split: str, metadata: tuple[str, ...], _: tuple[int, int] | None) -> pa.Table:
    """The wanted columns of a data set, read again where the file changed."""
    table = load_table(path, name=known.name, split=split)
    wanted = list(dict.fromkeys([known.columns.question, known.columns.answer, *metadata]))
    for column in wanted:
        if column not in table.column_names:
            hint = did_you_mean(column, table.column_names)
            raise DataError(f"{path}: no column {column!r}{hint}; it has {', '.join(table.column_names)}")
    _check_values(path, table, known.columns.question, mark=None)
    _check_values(path, table, known.columns.answer, mark=ANSWER_MARKS.get(known.answer_from))
    return table.select(wanted)


def _check_values(path: str, table: pa.Table, name: str, *, mark: str | None) -> None:
    """A row without a question or answer is found here, before the first round and not in the hundredth."""
    column = table.column(name)
    bad = pc.is_null(column)
    what = "holds nothing"
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        found = pc.match_substring(column, mark) if mark else pc.greater(pc.utf8_length(column), 0)
        bad = pc.invert(pc.fill_null(found, False))
        what = f"has no {mark!r}" if mark else what
    row = pc.index(bad, pa.scalar(True)).as_py()
    if row >= 0:
        raise DataError(f"{path}: row {row} {what} in column {name!r}; mend it or leave the row out")


def _messages(value: Any, where: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, list) and value and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value):
        return [{"role": str(m["role"]), "content": str(m["content"])} for m in value]
    raise DataError(f"{where}: {str(value)[:80]!r} is neither text nor a list of chat messages")


def _answer(value: Any, answer_from: AnswerFrom) -> str:
    text = str(value).strip()
    if answer_from == "gsm8k":
        return text.rpartition("####")[2].strip()
    if answer_from == "boxed":
        at = text.rfind("\\boxed")
        return extract_answer(text[at:], None) or "" if at >= 0 else ""
    return text
