"""Streamed data sets: same rows as loaded ones, block shuffling, hold-out and resume."""

import json
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrl_graph.contract.node import Place
from genrl_graph.errors import DataError
from genrl_graph.nodes.source.data.data_files import LocalFile
from genrl_graph.nodes.source.data.records import Columns, RowReader
from genrl_graph.nodes.source.data.streamed import CACHED_BLOCKS, Stream, open_stream
from genrl_graph.nodes.source.hf_dataset import HfDataset
from genrl_graph.seeds import stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of two files with 57 rows, laid out as on the hub."""
    folder = tmp_path_factory.mktemp("streamed")
    lines = [json.dumps({"question": f"{n}?", "answer": str(n), "n": n}) + "\n" for n in range(57)]
    (folder / "train-0.jsonl").write_text("".join(lines[:30]))
    (folder / "train-1.jsonl").write_text("".join(lines[30:]))
    return folder


def drawn(source: HfDataset, rounds: range) -> list[int]:
    return [int(key.rpartition("/")[2]) for r in rounds for key in source.run(rng=stream("s"), round=r).values("id")]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=st.integers(1, 70), num_tasks=st.integers(1, 9), round=st.integers(0, 40))
def test_the_order_is_that_of_the_stream_with_each_block_shuffled(
    folder: Path, block: int, num_tasks: int, round: int
) -> None:
    source = HfDataset(path=str(folder), streaming=True, shuffle_block=block, num_tasks=num_tasks)
    open_stream.cache_clear()
    resumed = source.run(rng=stream("s"), round=round)  # a run that begins here gives what one that comes here gives
    rounds = 57 // num_tasks
    epoch = drawn(source, range(rounds))
    assert len(set(epoch)) == rounds * num_tasks
    for start in range(0, len(epoch) - block + 1, block):
        assert Counter(epoch[start : start + block]) == Counter(range(start, start + block))
    later = source.run(rng=stream("s"), round=round)
    assert later == resumed
    for row in later.rows():
        task = source.resolve(row["id"])
        assert (task.id, task.messages, task.answer) == (row["id"], row["messages"], row["answer"])
    assert drawn(source, range(rounds, 2 * rounds)) != epoch or block == 1


def test_a_row_that_is_long_past_is_read_again_and_memory_is_bounded(folder: Path) -> None:
    reader = RowReader(str(folder), Columns(), "column", ("n",))
    rows = Stream(reader, None, "train", block=5)
    numbers = [row["n"] for number in range(6) for row in rows.rows(number)]
    assert numbers == list(range(30)) and len(rows._blocks) == CACHED_BLOCKS
    assert [row["n"] for row in rows.rows(0)] == list(range(5))
    assert [row["n"] for row in rows.rows(6)] == list(range(30, 35))
    assert rows.size is None and rows.rows(40) == [] and rows.size == 57


def test_a_stream_gives_the_tasks_of_the_table(folder: Path) -> None:
    params = {"path": str(folder), "metadata": ["n"], "kind_column": "n"}
    table, streamed = (HfDataset(**params, streaming=on).placed(Place("t")) for on in (False, True))
    assert [streamed.resolve(f"t/{n}") for n in (56, 0, 31)] == [table.resolve(f"t/{n}") for n in (56, 0, 31)]
    with pytest.raises(DataError, match="no row 57, but 57 rows"):
        HfDataset(**params, streaming=True, shuffle_block=7).resolve("source.hf_dataset/57")


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv", "data.parquet"])
def test_files_stream_as_they_load(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / name
    rows = [{"question": f"{n}?", "answer": f"0{n}"} for n in range(9)]
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith("csv"):
        path.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = HfDataset(path=str(path), streaming=True, shuffle_block=4, num_tasks=9)
    assert sorted(source.run(rng=stream("s"), round=0).values("answer")) == [f"0{n}" for n in range(9)]


@pytest.mark.parametrize(
    ("lines", "params", "message"),
    [
        (['{"question": "q", "anwser": "1"}'], {}, r"no column 'answer' \(did you mean 'anwser'"),
        (['{"question": "q", "answer": "1"}', '{"question": "q"}'], {}, "row 1: no column 'answer'"),
        (['{"question": "q", "answer": "1"}'], {"answer_from": "gsm8k"}, "row 0: column 'answer' has no '####'"),
        (['{"question": "q", "answer": "1"}', '{"question"'], {}, r"data.jsonl:2: no JSON"),
        (['{"question": "q", "answer": "1"}'], {"num_tasks": 2}, "num_tasks is 2, but there are 1 rows"),
    ],
)
def test_bad_rows_of_a_stream_are_told_as_those_of_a_table(
    tmp_path: Path, lines: list[str], params: dict[str, object], message: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=message) as raised:
        HfDataset(path=str(path), **({"num_tasks": 1, "streaming": True} | params)).prepare()
    assert "\n" not in str(raised.value)


def test_a_reading_that_fails_is_begun_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = LocalFile.open, ["the disk is away"]

    def flaky(self: LocalFile) -> BinaryIO:
        if failures:
            raise OSError(failures.pop())
        return real(self)

    monkeypatch.setattr(LocalFile, "open", flaky)
    rows = Stream(RowReader(str(folder), Columns(), "column", ("n",)), None, "train", block=10)
    with pytest.raises(DataError, match=r"train-0.jsonl: cannot be read: the disk is away"):
        rows.rows(1)
    assert [row["n"] for row in rows.rows(1)] == list(range(10, 20))


def test_a_stream_is_checked_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRL_GRAPH_CACHE", str(tmp_path / "cache"))
    path, opened, real = tmp_path / "data.jsonl", [0], LocalFile.open

    def counted(self: LocalFile) -> BinaryIO:
        opened[0] += 1
        return real(self)

    monkeypatch.setattr(LocalFile, "open", counted)
    path.write_text('{"question": "q", "answer": "1"}\n' * 50)
    for times in (1, 1):
        open_stream.cache_clear()  # as in a new process
        HfDataset(path=str(path), streaming=True, num_tasks=1).prepare()
        assert opened[0] == times
    path.write_text('{"question": "q", "answer": "1"}\n' * 49 + '{"question": "q", "answer": ""}\n')
    with pytest.raises(DataError, match="row 49: column 'answer' holds nothing"):
        HfDataset(path=str(path), streaming=True, num_tasks=1).prepare()
