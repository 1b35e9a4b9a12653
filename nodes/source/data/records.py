"""Convert the rows of a data set to tasks: columns of the question and answer, and how to read the answer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.messages import did_you_mean
from genrl_graph.nodes.reward.scoring.answers import extract_answer
from genrl_graph.nodes.source.data.epoch import plain

AnswerFrom = Literal["column", "gsm8k", "boxed"]
ANSWER_MARKS: Mapping[AnswerFrom, str] = {"gsm8k": "####", "boxed": "\\boxed"}


class Columns(BaseModel):
    """Names of the columns with the question (text or chat messages) and the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field("question", description="column of the question, text or chat messages")
    answer: str = Field("answer", description="column of the reference answer")


_DEFAULT = Columns()


@dataclass(frozen=True, slots=True)
class Preset:
    """Default params for a data set on the hub."""

    name: str | None = None
    columns: Columns = _DEFAULT
    answer_from: AnswerFrom = "column"


_SOLUTION = Columns(question="prompt", answer="solution")
PRESETS: Mapping[str, Preset] = {
    "openai/gsm8k": Preset("main", answer_from="gsm8k"),
    "open-r1/DAPO-Math-17k-Processed": Preset("en", _SOLUTION),
    "open-r1/Big-Math-RL-Verified-Processed": Preset("all", _SOLUTION),
}


@dataclass(frozen=True, slots=True)
class RowReader:
    """Converts rows of the data set at `path` to tasks; `metadata` and `kind` name further columns."""

    path: str
    columns: Columns
    answer_from: AnswerFrom
    metadata: tuple[str, ...] = ()
    kind: str | None = None

    @property
    def read_columns(self) -> list[str]:
        """Names of the columns to read, each once."""
        kind = () if self.kind is None else (self.kind,)
        return list(dict.fromkeys([self.columns.question, self.columns.answer, *self.metadata, *kind]))

    @property
    def required(self) -> tuple[tuple[str, str | None], ...]:
        """Columns that no row may leave empty, each with a mark that its text must contain (None: any text)."""
        return (self.columns.question, None), (self.columns.answer, ANSWER_MARKS.get(self.answer_from))

    def require_columns(self, names: Iterable[str]) -> None:
        """Raise `DataError` if `names` lacks a column to read."""
        names = list(names)
        for column in self.read_columns:
            if column not in names:
                hint = did_you_mean(column, names)
                raise DataError(f"{self.path}: no column {column!r}{hint}; it has {', '.join(names)}")

    def select(self, row: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns to read of a row; raises `DataError` if one is missing or a required one is empty."""
        self.require_columns(values)
        for column, mark in self.required:
            value = values[column]
            if value is None or (isinstance(value, str) and (mark or "") not in value) or value == "":
                raise self.bad_value(row, column, mark)
        return {column: values[column] for column in self.read_columns}

    def bad_value(self, row: int, column: str, mark: str | None) -> DataError:
        """Return the error for a row whose required column is empty or lacks `mark`."""
        problem = f"has no {mark!r}" if mark else "holds nothing"
        return DataError(f"{self.path}: row {row} {problem} in column {column!r}; mend it or leave the row out")

    def task(self, task_id: str, row: int, record: Mapping[str, Any]) -> Task:
        """Convert a row to a task; raises `DataError` if its question or answer cannot be read."""
        where = f"{self.path}: row {row}"
        messages = _messages(record[self.columns.question], f"{where}, column {self.columns.question!r}")
        answer = _answer(record[self.columns.answer], self.answer_from)
        if not answer:
            raise DataError(f"{where}: no answer in column {self.columns.answer!r} ({self.answer_from})")
        metadata = plain({name: record[name] for name in self.metadata})
        kind = "" if self.kind is None or record[self.kind] is None else str(record[self.kind])
        return Task(task_id, messages, answer, metadata, raw=record, kind=kind)


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
