"""Values of a data set become text, chats and metadata, or are refused with their place."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrl_graph.contract.node import Place
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.hf_dataset import HfDataset
from genrl_graph.nodes.source.list import ListSource

ASK = {"role": "user", "content": "2 + 2?"}
SAY = {"role": "assistant", "content": "It is 4."}


def first_task(tmp_path: Path, row: dict[str, Any], **params: Any) -> Task:
    """Return the task of a one-row JSONL file, after all its rows were checked."""
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    source = HfDataset(path=str(path), num_tasks=1, **params)
    source.prepare()
    return source.resolve("source.hf_dataset/0")


@pytest.mark.parametrize(
    ("answer", "text"),
    [("0012", "0012"), ("2024-01-05", "2024-01-05"), (" 5\n", "5"), (5, "5"), (-3, "-3"), (10**30, "1" + "0" * 30)],
)
def test_text_and_whole_numbers_are_answers(tmp_path: Path, answer: object, text: str) -> None:
    assert first_task(tmp_path, {"question": "q", "answer": answer}).answer == text


@pytest.mark.parametrize("column", ["question", "answer", "kind"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2.5, "holds 2.5: a fraction, which can be written in several ways, not text; store it as text"),
        (True, "holds True: true or false, not text"),
        (float("nan"), "holds NaN, a missing number; mend it or leave the row out"),
        ({"style": "rule", "truth": "5"}, r"holds \{'style'.*named fields, not text; name one .*\.style, .*\.truth"),
        ("\ud800", "holds half a surrogate pair at character 0"),
    ],
)
def test_other_values_are_refused_with_their_place(tmp_path: Path, column: str, value: object, message: str) -> None:
    row = {"question": "q", "answer": "5", "kind": "easy"} | {column: value}
    if column == "kind":
        message = message.partition("name one")[0]
    with pytest.raises(DataError, match=rf"data.jsonl:1: row 0: column '{column}':? {message}"):
        first_task(tmp_path, row, kind_column="kind")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": None, "answer": "5"}, "'question' holds nothing"),
        ({"question": "q", "answer": None}, "'answer' holds nothing"),
        ({"question": "q", "answer": " \t"}, "'answer' holds nothing"),
        ({"question": "\n", "answer": "5"}, "'question': the last message holds nothing"),
        (
            {"question": "q", "answer": ["5"]},
            r"'answer' holds \['5'\]: a list, not text; name an item as the column .answer\.0",
        ),
        ({"question": [], "answer": "5"}, "no message of a user"),
        ({"question": ["q"], "answer": "5"}, "message 0 is 'q'; a message is {role: ..., content: ...}"),
        ({"question": [{"role": "user", "content": None}], "answer": "5"}, "message 0, content holds nothing"),
        ({"question": [{"role": "", "content": "q"}], "answer": "5"}, "message 0 has the role ''"),
        ({"question": [{"role": "system", "content": "q"}], "answer": "5"}, "role 'system'; a prompt ends with"),
        ({"question": [ASK | {"tool_calls": [1]}], "answer": "5"}, r"message 0 has tool_calls: \[1\]"),
        ({"question": [ASK, SAY], "answer": "5"}, "ends with the assistant's 'It is 4.'.*cut_last_assistant: true"),
        (
            {"question": [{"role": "user", "content": [{"type": "image", "url": "x"}]}], "answer": "5"},
            "part 0 is .*image",
        ),
    ],
)
def test_prompts_and_answers_that_are_none(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        first_task(tmp_path, row)


def test_the_last_turn_of_the_assistant_is_left_out_when_told(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Add."}, ASK, SAY, ASK | {"content": "3 + 3?"}]
    task = first_task(tmp_path, {"question": [*chat, SAY, SAY], "answer": "6"}, cut_last_assistant=True)
    assert task.messages == chat
    assert first_task(tmp_path, {"question": chat, "answer": "6"}, cut_last_assistant=True).messages == chat
    with pytest.raises(DataError, match="no message of a user"):
        first_task(tmp_path, {"question": [SAY], "answer": "6"}, cut_last_assistant=True)


def test_parts_of_text_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    task = first_task(tmp_path, {"question": [{"role": "user", "content": parts, "name": None}], "answer": "4"})
    assert task.messages == [ASK]


@pytest.mark.parametrize(
    ("row", "column", "answer"),
    [
        ({"reward_model": {"style": "rule", "ground_truth": 5}}, "reward_model.ground_truth", "5"),
        ({"turns": [{"value": "a"}, {"value": "b"}]}, "turns.1.value", "b"),
        ({"answers": ["x"]}, "answers.0", "x"),
        ({"a.b": "exact", "a": {"b": "nested"}}, "a.b", "exact"),
        ({"a.b": {"c": "odd"}}, "a.b.c", "odd"),
    ],
)
def test_columns_may_be_paths(tmp_path: Path, row: dict[str, Any], column: str, answer: str) -> None:
    task = first_task(tmp_path, {"question": "q"} | row, columns={"answer": column}, metadata=[column])
    assert (task.answer, task.metadata) == (answer, {column: row.get(column) or task.metadata[column]})


def test_a_wrong_path_is_told_with_the_near_one(tmp_path: Path) -> None:
    row = {"question": "q", "reward_model": {"ground_truth": "5"}}
    with pytest.raises(DataError, match=r"no column 'reward_model.truth' \(did you mean 'reward_model.ground_truth'"):
        first_task(tmp_path, row, columns={"answer": "reward_model.truth"})
    with pytest.raises(DataError, match=r"no column 'levl' \(did you mean 'level'"):
        first_task(tmp_path, {"question": "q", "answer": "5", "level": 1}, metadata=["levl"])


def test_typed_columns_follow_the_same_rule(tmp_path: Path) -> None:
    import datetime
    from decimal import Decimal

    day = datetime.date(2024, 1, 5)
    row = {"question": "q", "answer": "5", "day": day, "price": Decimal("3.10"), "image": b"\x89", "missing": None}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "data.parquet")
    path = str(tmp_path / "data.parquet")
    source = HfDataset(path=path, metadata=["day", "price", "missing"], num_tasks=1)
    assert source.resolve("source.hf_dataset/0").metadata == {"day": "2024-01-05", "price": "3.10", "missing": None}
    for column, message in [("day", "a date, not text"), ("price", "a Decimal, not text"), ("image", "bytes")]:
        with pytest.raises(DataError, match=rf"data.parquet: row 0: column '{column}' holds .*{message}"):
            HfDataset(path=path, columns={"answer": column}, num_tasks=1).prepare()
    with pytest.raises(DataError, match=r"column 'image' holds .*a bytes"):
        HfDataset(path=path, metadata=["image"], num_tasks=1).prepare()


def test_listed_tasks_follow_the_same_rule() -> None:
    for task, message in [
        ({"messages": [ASK, SAY]}, "ends with the assistant"),
        ({"question": "q", "answer": 3.1}, r"more than one spelling, and answers are text; put it in quotes, got 3\.1"),
        ({"question": "q", "answer": True}, "valid string"),
        ({"question": "q", "metadata": {"seen": {1}}}, "metadata.seen holds {1}"),
    ]:
        with pytest.raises(ParamError, match=message):
            ListSource(tasks=[task])
    source = ListSource(tasks=[{"question": "q", "answer": 42, "kind": 7}])
    assert source.placed(Place("tasks")).resolve("tasks/0").answer == "42"
