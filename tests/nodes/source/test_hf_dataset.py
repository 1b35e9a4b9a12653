"""`source.hf_dataset`: file formats, presets, hold-out and errors."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Place
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.hf_dataset import HfDataset
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.seeds import stream

ROWS = [{"question": f"What is {n} + {n}?", "answer": f"We add.\n#### {2 * n}", "level": n} for n in range(7)]


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", ROWS)


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def csv_file(folder: Path) -> Path:
    path = folder / "data.csv"
    lines = [f'"{row["question"]}","{row["answer"]}",{row["level"]}' for row in ROWS]
    path.write_text("question,answer,level\n" + "\n".join(lines) + "\n")
    return path


def parquet_file(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "data.parquet")
    return folder / "data.parquet"


def saved_folder(folder: Path) -> Path:
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def folder_of_files(folder: Path) -> Path:
    (folder / "files").mkdir()
    write_jsonl(folder / "files" / "train.jsonl", ROWS)
    write_jsonl(folder / "files" / "test.jsonl", ROWS[:2])
    return folder / "files"


def json_list(folder: Path) -> Path:
    (folder / "data.json").write_text(json.dumps(ROWS))
    return folder / "data.json"


@pytest.mark.parametrize("make", [csv_file, parquet_file, saved_folder, folder_of_files, json_list])
def test_all_formats_give_the_same_tasks(
    make: Callable[[Path], Path], jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = HfDataset(path=str(make(tmp_path)), answer_from="gsm8k", num_tasks=3)
    expected = HfDataset(path=str(jsonl), answer_from="gsm8k", num_tasks=3)
    assert given.run(rng=stream("s"), round=4) == expected.run(rng=stream("s"), round=4)


def test_a_split_of_a_folder(tmp_path: Path) -> None:
    source = HfDataset(path=str(folder_of_files(tmp_path)), split="test", num_tasks=2)
    assert sorted(source.run(rng=stream("s"), round=0).values("id")) == ["source.hf_dataset/0", "source.hf_dataset/1"]
    with pytest.raises(DataError, match="dev"):
        HfDataset(path=source.path, split="dev").run(rng=stream("s"), round=0)


def test_a_task_is_its_row(jsonl: Path) -> None:
    source = HfDataset(path=str(jsonl), answer_from="gsm8k", metadata=["level"], num_tasks=7)
    rows = source.run(rng=stream("s"), round=0).rows()
    assert sorted(row["id"] for row in rows) == [f"source.hf_dataset/{n}" for n in range(7)]
    for row in rows:
        task = source.resolve(row["id"])
        n = int(row["id"].split("/")[1])
        assert (task.answer, task.metadata, task.question) == (str(2 * n), {"level": n}, ROWS[n]["question"])
        assert (row["answer"], row["messages"], json.loads(row["metadata"])) == (
            task.answer,
            task.messages,
            task.metadata,
        )


def test_a_hub_name_brings_its_columns() -> None:
    known = HfDataset(path="open-r1/DAPO-Math-17k-Processed").preset
    assert (known.name, known.columns.question, known.columns.answer) == ("en", "prompt", "solution")
    gsm8k = HfDataset(path="openai/gsm8k", answer_from="column").preset
    assert (gsm8k.name, gsm8k.answer_from) == ("main", "column")


def test_other_columns_chat_prompts_boxes_and_mixed_answers(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "6 * 7?"}]
    boxed = write_jsonl(
        tmp_path / "boxed.jsonl", [{"prompt": chat, "solution": r"So \boxed{41}, no, \boxed{\frac{84}{2}}."}]
    )
    columns = {"question": "prompt", "answer": "solution"}
    (row,) = (
        HfDataset(path=str(boxed), columns=columns, answer_from="boxed", num_tasks=1)
        .run(rng=stream("s"), round=0)
        .rows()
    )
    assert (row["messages"], row["answer"]) == (chat, r"\frac{84}{2}")
    mixed = write_jsonl(tmp_path / "mixed.jsonl", [{"question": "a", "answer": 1}, {"question": "b", "answer": "x"}])
    source = HfDataset(path=str(mixed), num_tasks=2)
    assert [source.resolve(f"source.hf_dataset/{n}").answer for n in (0, 1)] == ["1", "x"]


@pytest.mark.parametrize(
    ("text", "params", "message"),
    [
        ("", {}, "no rows"),
        ('{"question": "q"}\n', {}, r"no column 'answer'; it has question"),
        ('{"question": "q", "anwser": "1"}\n', {}, r"did you mean 'anwser'"),
        ('{"question": "q", "answer": "1"}\n{"question"\n', {}, r"data.jsonl:2: no JSON"),
        ("[1, 2]", {}, "must be a JSON object"),
        ('{"question": "q", "answer": "1"}\n', {"num_tasks": 2}, "num_tasks is 2, but there are 1 rows"),
        (
            '{"question": "q", "answer": "1"}\n',
            {"answer_from": "gsm8k"},
            "row 0: column 'answer' has no '####'",
        ),
        ('{"question": "q", "answer": "1"}\n{"question": "q"}\n', {}, "row 1: no column 'answer'; it has question"),
        ('{"question": 3.5, "answer": "1"}\n', {}, "row 0: column 'question' holds 3.5: a fraction"),
    ],
)
def test_broken_data_is_told_in_one_line(tmp_path: Path, text: str, params: dict[str, object], message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        HfDataset(path=str(path), **({"num_tasks": 1} | params)).run(rng=stream("s"), round=0)
    assert "\n" not in str(raised.value)


def test_broken_files_and_places(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    (tmp_path / "x.bin").write_bytes(b"?")
    (tmp_path / "latin.csv").write_bytes("question,answer\né,1\n".encode("latin-1"))
    for name, message in [
        ("x.parquet", "cannot be read"),
        ("x.bin", "cannot read a .bin"),
        ("latin.csv", r"latin.csv:2: not UTF-8 text \(byte 0xe9\)"),
    ]:
        with pytest.raises(DataError, match=message):
            HfDataset(path=str(tmp_path / name)).run(rng=stream("s"), round=0)
    with pytest.raises(DataError, match="no such file"):
        HfDataset(path=str(tmp_path / "gone.jsonl")).run(rng=stream("s"), round=0)


def test_a_hub_that_cannot_be_reached_leads_to_a_local_copy() -> None:
    code = (
        "from genrl_graph.nodes.source.hf_dataset import HfDataset; from genrl_graph.seeds import stream\n"
        "from genrl_graph.errors import DataError\n"
        "try: HfDataset(path='nobody/nothing-of-this-name').run(rng=stream('s'), round=0)\n"
        "except DataError as error: print(error)"
    )
    env = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    assert "local copy" in output and output.count("\n") == 1


def test_a_changed_file_is_read_again(jsonl: Path) -> None:
    source = HfDataset(path=str(jsonl))
    assert source.resolve("source.hf_dataset/1").question == ROWS[1]["question"]
    write_jsonl(jsonl, [{"question": "new", "answer": "1"}] * 2)
    assert source.resolve("source.hf_dataset/1").question == "new"


def test_looking_a_task_up_does_not_grow_with_the_data(tmp_path: Path) -> None:
    rows = pa.table({"question": [f"{n}?" for n in range(200_000)], "answer": ["#### 1"] * 200_000})
    pq.write_table(rows, tmp_path / "large.parquet")
    source = HfDataset(path=str(tmp_path / "large.parquet"), answer_from="gsm8k")
    source.resolve("source.hf_dataset/0")
    started = time.perf_counter()
    for n in range(0, 200_000, 1000):
        source.placed(Place("source.hf_dataset")).resolve(f"source.hf_dataset/{n}")
    assert (time.perf_counter() - started) / 200 < 0.001


def test_params_are_checked_without_data() -> None:
    for params in ({"num_tasks": 0}, {"columns": {"prompt": "x"}}, {"answer_from": "last line"}, {"path": ""}):
        with pytest.raises(ParamError):
            HfDataset(**({"path": "openai/gsm8k"} | params))
    source = HfDataset(path="x", columns={"question": "prompt"}, metadata=["level"])
    assert HfDataset(**source.plain_params()) == source


def test_an_evaluation_asks_the_split_of_its_own(tmp_path: Path) -> None:
    source = HfDataset(path=str(folder_of_files(tmp_path)), eval_split="test", num_tasks=3, kind_column="level")
    source.prepare()
    asked = source.evaluated(Evaluation(num_tasks=64)).run(rng=stream("e"), round=0)
    assert asked.values("id") == ["source.hf_dataset/eval-0", "source.hf_dataset/eval-1"]
    task = source.resolve("source.hf_dataset/eval-1")
    assert (task.question, task.kind) == (ROWS[1]["question"], "1")
    with pytest.raises(DataError, match="2 rows"):
        source.resolve("source.hf_dataset/eval-2")
    with pytest.raises(DataError, match="dev"):
        HfDataset(path=source.path, eval_split="dev", num_tasks=3).prepare()


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_held_out_are_never_trained_on(tmp_path: Path, streaming: bool) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [{"question": f"{n}?", "answer": n} for n in range(100)])
    source = HfDataset(path=str(path), holdout=0.3, num_tasks=7, streaming=streaming, shuffle_block=16)
    source.prepare()
    trained = {name for round in range(30) for name in source.run(rng=stream("s"), round=round).values("id")}
    asked = source.evaluated(Evaluation(num_tasks=200)).run(rng=stream("e"), round=0).values("id")
    assert 15 < len(asked) < 45 and not trained & set(asked)
    assert len(trained | set(asked)) > (100 - 7 if streaming else 99)  # a stream leaves the rest of an epoch out
    assert source.resolve(asked[0]).answer == asked[0].rpartition("/")[2]
    some = source.evaluated(Evaluation(num_tasks=5)).run(rng=stream("e"), round=0).values("id")
    assert len(some) == 5 and set(some) <= set(asked)


def test_a_holdout_of_nothing_is_told_before_the_first_round(jsonl: Path) -> None:
    with pytest.raises(DataError, match=r"holdout 0.001 of its rows is none; raise it"):
        HfDataset(path=str(jsonl), holdout=0.001, num_tasks=2).prepare()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"eval_split": "test", "holdout": 0.1}, "not both"),
        ({"eval_split": "train"}, "what it trains on"),
        ({"path": "data/x.jsonl", "eval_split": "test"}, "x.jsonl is one file, which has no split 'test'"),
        ({"holdout": 1.0}, "holdout"),
    ],
)
def test_ways_of_holding_out_that_cannot_be(params: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        HfDataset(**({"path": "openai/gsm8k"} | params))


def test_without_rows_held_out_there_is_nothing_to_evaluate_on() -> None:
    with pytest.raises(ParamError, match="set eval_split or holdout"):
        HfDataset(path="openai/gsm8k").evaluated(Evaluation())


def test_dry_play_needs_no_hub(jsonl: Path) -> None:
    local = HfDataset(path=str(jsonl))
    assert local.dry() is local
    source = HfDataset(path="openai/gsm8k", eval_split="test", metadata=["level"], num_tasks=5).placed(Place("tasks"))
    stand_in = source.dry()
    assert isinstance(stand_in, ListSource) and stand_in.place == Place("tasks")
    tasks = stand_in.run(rng=stream("s"), round=0)
    held_out = stand_in.evaluated(Evaluation(num_tasks=2)).run(rng=stream("e"), round=0)
    assert len(tasks) == 5 and len(held_out) == 2
    task = stand_in.resolve(tasks.values("id")[1])
    left, right = task.question.removeprefix("What is ").removesuffix("?").split(" + ")
    assert (int(task.answer), task.metadata) == (int(left) + int(right), {"level": ""})
