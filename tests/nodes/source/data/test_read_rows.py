"""One reader for every way in: the same rows, the same text, and errors with their line."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrl_graph.errors import DataError
from genrl_graph.nodes.source.hf_dataset import HfDataset

ANSWERS = ["0012", "2024-01-05", "12:30", "3.10", "1e5", "true", "NA", "null", " x,y ", "007"]
MARK = "\ufeff"


def csv_text(answers: list[str]) -> str:
    return "question,answer\n" + "".join(f'q{at},"{answer}"\n' for at, answer in enumerate(answers))


def jsonl_text(answers: list[str]) -> str:
    return "".join(json.dumps({"question": f"q{at}", "answer": text}) + "\n" for at, text in enumerate(answers))


def answers_of(path: Path, *, streaming: bool) -> list[str]:
    source = HfDataset(path=str(path), streaming=streaming, num_tasks=2, shuffle_block=3)
    source.prepare()
    return [source.resolve(f"source.hf_dataset/{row}").answer for row in range(len(ANSWERS))]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["train.csv", "train.jsonl", "train.json"])
def test_every_way_in_gives_the_text_of_the_file(tmp_path: Path, name: str, streaming: bool) -> None:
    write = csv_text if name.endswith("csv") else jsonl_text
    expected = [answer.strip() for answer in ANSWERS]
    one, folder = tmp_path / name, tmp_path / "folder"
    one.write_text(MARK + write(ANSWERS))
    folder.mkdir()
    (folder / f"train-0.{name.rpartition('.')[2]}").write_text(MARK + write(ANSWERS[:4]))
    (folder / f"train-1.{name.rpartition('.')[2]}").write_text(
        MARK + write(["", *ANSWERS[4:]]).replace('q0,""\n', "").replace('{"question": "q0", "answer": ""}\n', "")
    )
    assert answers_of(one, streaming=streaming) == expected
    assert answers_of(folder, streaming=streaming) == expected


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "question,answer\nq,1\nWhat is 1,000?,5\n",
            r"a.csv:3: 3 fields under 2 names; put a text with a comma",
        ),
        ("b.csv", 'question,answer\n"two\nlines",1\nq\n', r"b.csv:4: 1 fields under 2 names"),
        ("c.csv", "question,answer,answer\nq,1,2\n", r"c.csv:1: the header names 'answer' twice"),
        ("d.csv", 'question,answer\nq,"1"2\n', r"d.csv:2: no CSV"),
        ("e.csv", 'question,answer\nq,1\nq,"1\nq,2\n', r"e.csv:3: no CSV: unexpected end of data"),
        ("f.jsonl", '{"question": "q", "answer": "1"}\n[]\n', r"f.jsonl:2: a row must be a JSON object"),
        ("g.jsonl", '{"question": "q", "answer": "1", "answer": "2"}\n', r"g.jsonl:1: 'answer' is given twice"),
        (
            "h.json",
            '[{"question": "q", "answer": "1"}, {"question": "q"}]',
            r"h.json: item 1: row 1: no column 'answer'",
        ),
        ("i.jsonl", '\n\n{"question": "q", "answer": " "}\n', r"i.jsonl:3: row 0: column 'answer' holds nothing"),
        ("j.jsonl", '{"question": "q", "answer": ' + "9" * 5000 + "}", r"j.jsonl:1: holds a number that is too long"),
    ],
)
def test_malformed_rows_are_errors_with_their_line(
    tmp_path: Path, name: str, text: str, message: str, streaming: bool
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        HfDataset(path=str(tmp_path / name), num_tasks=1, streaming=streaming).prepare()
    assert "\n" not in str(raised.value)


def text_of(data: bytes) -> pa.Array:
    return pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, len(data)], np.int32)), pa.py_buffer(data))


@pytest.mark.parametrize(
    ("column", "replaced"),
    [
        (text_of(b"\xff\xfe"), b""),
        (pa.array(["q"]), b"answer"),
        (pa.array(["q"]), b"unused"),
        (pa.array([2**62], pa.timestamp("us")), b""),
        (pa.array([2**30], pa.date32()), b""),
    ],
    ids=["text", "name", "name that is not read", "time", "day"],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_values_and_names_that_python_cannot_hold_are_one_line(
    tmp_path: Path, column: pa.Array, replaced: bytes, streaming: bool
) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"question": column, "answer": ["1"], "unused": ["1"]}), path)
    if replaced:
        path.write_bytes(path.read_bytes().replace(replaced, b"\xff" * len(replaced)))
    with pytest.raises(DataError, match=r"data.parquet: cannot be read: ") as raised:
        HfDataset(path=str(path), num_tasks=1, streaming=streaming).prepare()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_row_far_down_is_found_before_the_first_round(tmp_path: Path, streaming: bool) -> None:
    for rows in ([{"question": "q", "answer": "1"}] * 3000, [{"question": "q", "answer": "1"}] * 2999 + [{"x": 1}]):
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = HfDataset(path=str(tmp_path / "data.jsonl"), num_tasks=1, streaming=streaming, shuffle_block=10)
        if rows[-1] == rows[0]:
            source.prepare()
            continue
        with pytest.raises(DataError, match=r"data.jsonl:3000: row 2999: no column 'question'"):
            source.prepare()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_row_of_the_evaluation_s_split_is_found_too(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "train.csv").write_text("question,answer\nq,1\nr,2\n")
    (tmp_path / "test.csv").write_text("question,answer\n" + "q,1\n" * 9 + "q,\n")
    source = HfDataset(
        path=str(tmp_path), eval_split="test", num_tasks=1, streaming=streaming, shuffle_block=2, metadata=[]
    )
    with pytest.raises(DataError, match=r"test.csv:11: row 9: column 'answer' holds nothing"):
        source.prepare()
