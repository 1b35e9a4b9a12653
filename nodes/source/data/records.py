"""Convert the rows of a data set to tasks: columns of the question and answer, and how to read the answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.messages import short
from genrl_graph.nodes.reward.scoring.answers import extract_answer
from genrl_graph.nodes.source.data.data_set import DataSet
from genrl_graph.nodes.source.data.values import chat_of, json_of, text_of, top_columns, unknown_column, value_at

AnswerFrom = Literal["column", "gsm8k", "boxed"]
ANSWER_MARKS: Mapping[AnswerFrom, str] = {"gsm8k": "####", "boxed": "\\boxed"}


class Columns(BaseModel):
    """Columns with the question (text or chat messages) and the answer; `a.b` is field b of column a."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(default="question", description="column of the question, text or chat messages")
    answer: str = Field(default="answer", description="column of the reference answer; a.b is field b of column a")


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


class TaskReader(Protocol):
    """Reads rows of the data set at `path` as tasks; it is hashable, and equal to one that reads them alike."""

    def __hash__(self) -> int: ...

    @property
    def path(self) -> str:
        """The path of the data set."""
        ...

    @property
    def optional(self) -> list[str]:
        """Columns that single rows of a JSONL file may lack, each once."""
        ...

    @property
    def read_columns(self) -> list[str]:
        """Names and paths of the columns to read, each once."""
        ...

    def require_columns(self, names: list[str]) -> None:
        """Raise `DataError` if a header lacks a column to read."""
        ...

    def select(self, where: str, row: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is kept of a row, as JSON values; raises `DataError` if the row is not a valid task."""
        ...

    def task(self, task_id: str, where: str, record: Mapping[str, Any]) -> Task:
        """Convert what `select` has kept of a row to a task."""
        ...


@dataclass(frozen=True, slots=True)
class RowReader:
    """Converts rows of the data set at `path` to tasks; `metadata` and `kind` name further columns."""

    path: str
    columns: Columns
    answer_from: AnswerFrom
    metadata: tuple[str, ...] = ()
    kind: str | None = None
    cut_last_assistant: bool = False

    @property
    def optional(self) -> list[str]:
        """Columns that single rows of a JSONL file may lack, each once."""
        return list(dict.fromkeys([*self.metadata, *(() if self.kind is None else (self.kind,))]))

    @property
    def read_columns(self) -> list[str]:
        """Names and paths of the columns to read, each once."""
        return list(dict.fromkeys([self.columns.question, self.columns.answer, *self.optional]))

    def require_columns(self, names: list[str]) -> None:
        """Raise `DataError` if a header lacks a column to read."""
        for column in self.read_columns:
            if not top_columns(names, column):
                raise unknown_column(self.path, column, dict.fromkeys(names))

    def select(self, where: str, row: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns to read of a row as JSON values; columns that are only optional may be missing.

        Raises `DataError` with file, line, row, column and value if the row is not a valid task.
        """
        where = f"{where}: row {row}"
        record: dict[str, Any] = {}
        for column in self.read_columns:
            try:
                value = value_at(values, column)
            except LookupError as error:
                if column not in (self.columns.question, self.columns.answer):
                    continue
                raise unknown_column(where, column, values) from error
            record[column] = value
        self.task("", where, record)
        return {column: json_of(value, where) for column, value in record.items()}

    def task(self, task_id: str, where: str, record: Mapping[str, Any]) -> Task:
        """Convert the record of a row to a task; raises `DataError` if it cannot be read."""
        question, answer = self.columns.question, self.columns.answer
        messages = chat_of(
            record[question],
            f"{where}: column {question!r}",
            question,
            cut_last_assistant=self.cut_last_assistant,
        )
        metadata = {name: json_of(record.get(name), f"{where}: column {name!r}") for name in self.metadata}
        kind = "" if self.kind is None else record.get(self.kind)
        kind = "" if kind is None else text_of(kind, f"{where}: column {self.kind!r}")
        return Task(task_id, messages, self._answer(record[answer], where), metadata, raw=record, kind=kind)

    def _answer(self, value: object, where: str) -> str:
        column, mark = self.columns.answer, ANSWER_MARKS.get(self.answer_from)
        where = f"{where}: column {column!r}"
        text = text_of(value, where, column).strip()
        answer = text
        if self.answer_from == "gsm8k":
            answer = text.rpartition("####")[2].strip() if "####" in text else ""
        elif self.answer_from == "boxed":
            at = text.rfind("\\boxed")
            answer = extract_answer(text[at:], None) or "" if at >= 0 else ""
        if answer:
            return answer
        if not text:
            raise DataError(f"{where} holds nothing; mend it or leave the row out")
        has = f"has no {mark!r}" if mark and mark not in text else f"has nothing after its last {mark!r}"
        raise DataError(f"{where} {has} in {short(text)}; mend it, or set answer_from")


def valid_rows(reader: TaskReader, data: DataSet) -> Iterator[dict[str, Any]]:
    """Yield the record of every row; raise `DataError` for the first bad row, or for a column that no row has."""
    seen: set[str] = set()
    first: Mapping[str, Any] = {}
    for row, (where, values) in enumerate(data.rows(0, reader.read_columns)):
        record = reader.select(where, row, values)
        first = first or values
        seen.update(record)
        yield record
    if not seen:
        raise DataError(f"{reader.path}: the data set has no rows")
    for column in reader.optional:
        if column not in seen:
            raise unknown_column(reader.path, column, first)
