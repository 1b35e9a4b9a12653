"""The store of a run: commits survive, blocks reach zarr, crashes neither lose nor double rows."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr

from genrl_graph.errors import StoreError
from genrl_graph.store import chunks
from genrl_graph.store.arrays import RolloutArrays
from genrl_graph.store.journal import Record
from genrl_graph.store.run_store import RunStore

GRAPH = "graph: tiny\nnodes: {}\n"
CHAT = pa.list_(pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string())]))


def step(number: int, *, rows: int = 3, holder: str = "peer0000") -> list[Record]:
    """Return the records of a round: ragged text and tokens, numbers, and in some rounds an empty table."""
    chats = [[{"role": "user", "content": f"é{number}\0" * i}] * (i % 3) for i in range(rows)]
    answer = pa.table(
        {
            "id": [f"{number}-{i}" for i in range(rows)],
            "messages": pa.array(chats, CHAT),
            "ids": pa.array([list(range(i + number % 2)) for i in range(rows)], pa.list_(pa.int32())),
        }
    )
    reward = np.linspace(-1, 1, rows) + number
    trained = pa.table({"ratio": pa.array([float("nan"), -0.0][: number % 3], pa.float32())})
    return [
        Record(number, "answer", holder, {}, {"answer": answer}),
        Record(number, "update", holder, {"late": ["peer0001"]}, {"score": pa.table({"reward": reward})}),
        Record(number, "update", holder, {"digest": "ab"}, {"update/trained": trained}),
    ]


def new(folder: Path, **options: int) -> RunStore:
    return RunStore.create(folder, GRAPH, {"genrl-graph": "0.1.0"}, **options)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of the arrays, by path."""
    root = folder / "rollouts.zarr"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def ids(store: RunStore) -> list[str]:
    values: list[str] = store.table("answer").column("id").to_pylist()
    return values


def expected_ids(rounds: int) -> list[str]:
    return [f"{number}-{i}" for number in range(rounds) for i in range(3)]


@contextmanager
def disk_full(at_bytes: int) -> Iterator[None]:
    """Limit the size of files: the system then refuses writes as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four rounds that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with new(folder) as store:
        for number in range(4):
            store.commit(step(number))
    return folder


# the folders `node` of groups `node/field`, and those of ragged columns, have no metadata; zarr reads the tree anyway
@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")
def test_a_finished_run_is_all_zarr(finished: Path) -> None:
    root: Any = zarr.open(str(finished / "rollouts.zarr"), mode="r")
    want = np.concatenate([np.linspace(-1, 1, 3) + number for number in range(4)])
    np.testing.assert_array_equal(root["score/reward"][:], want)
    assert root["score/round"][:].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert root["score/round"].dtype == np.int32
    assert set(root["score/holder"][:]) == {"peer0000"}
    offsets, values = root["answer/ids/offsets"][:], root["answer/ids/values"][:]
    assert values[offsets[5] : offsets[6]].tolist() == [0, 1, 2]
    assert root["answer/messages/values/content"][:][0] == "é0\0"
    assert "reward (12,) float64" in str(root.tree())
    assert not list((finished / "journal").iterdir())
    assert list((finished / "checkpoints").iterdir()) == []


def test_steps_say_what_each_record_added(finished: Path) -> None:
    steps = RunStore.open(finished).steps().to_pylist()
    assert [(row["round"], row["node"]) for row in steps[:4]] == [
        (0, "answer"),
        (0, "update"),
        (0, "update"),
        (1, "answer"),
    ]
    assert json.loads(steps[4]["facts"]) == {"late": ["peer0001"]}
    assert json.loads(steps[5]["rows"]) == {"update/trained": 1}
    assert len({row["digest"] for row in steps}) == 12
    root: Any = zarr.open(str(finished / "rollouts.zarr"), mode="r")
    assert root["steps/digest"][3] == steps[3]["digest"]


def test_rows_read_the_same_from_the_journal_from_zarr_and_from_both(tmp_path: Path) -> None:
    seen = []
    with new(tmp_path / "run") as store:
        store.commit([record for number in range(3) for record in step(number)])
        for _ in range(3):  # all in the journal; all in zarr; both
            for reader in (store, RunStore.open(tmp_path / "run")):
                assert reader.groups() == ["answer", "score", "update/trained"]
                seen.append([reader.table(group, range(3)) for group in reader.groups()])
                assert [table.num_rows for table in seen[-1]] == [9, 9, 3]
            if len(seen) == 2:
                store.flush()
            else:
                store.commit(step(3))
    for tables in seen[1:]:
        for table, first in zip(tables, seen[0], strict=True):
            assert table.schema == first.schema
            assert str(table.to_pylist()) == str(first.to_pylist())  # as text, for NaN
    assert seen[0][0].schema.field("messages").type == CHAT


def test_rounds_are_those_of_the_records_not_of_late_rows(tmp_path: Path) -> None:
    with new(tmp_path / "run") as store:
        for number in range(4):
            rounds = pa.array([number, max(0, number - 1)], pa.int32())
            store.commit([Record(number, "answers", "p", {}, {"answers": pa.table({"round": rounds})})])
            if number == 1:
                store.flush()
        for reader in (store, RunStore.open(tmp_path / "run")):
            assert reader.table("answers", range(1, 3)).column("round").to_pylist() == [1, 0, 2, 1]
            assert reader.table("answers", range(0, 4, 3)).column("round").to_pylist() == [0, 0, 3, 2]
            assert reader.table("answers", range(9, 10)).num_rows == 0
            assert reader.steps(range(1, 3)).column("round").to_pylist() == [1, 2]
            assert reader.table("answers", range(2, 9), columns=["holder"]).to_pylist() == [{"holder": "p"}] * 4
            assert reader.table("answers", range(9, 10), columns=["holder"]).column_names == ["holder"]
            with pytest.raises(StoreError, match="'answers' has no column 'reward'; it has round, holder"):
                reader.table("answers", columns=["reward"])


def test_equal_records_give_equal_trees_whenever_blocks_are_written(tmp_path: Path, finished: Path) -> None:
    hashes = []
    for name, options in (("a", {"block_rounds": 1}), ("b", {"block_bytes": 1}), ("c", {})):
        with new(tmp_path / name, **options) as store:
            hashes.append([store.commit(step(number)) for number in range(4)])
        assert tree(tmp_path / name) == tree(finished)
    assert hashes[0] == hashes[1] == hashes[2]


def test_rows_put_together_otherwise_have_the_same_hash(tmp_path: Path) -> None:
    record = step(1)[0]
    table = record.tables["answer"]
    double = pa.concat_tables([table, table])
    cut = pa.concat_tables([double.slice(3, 1), double.slice(1, 2)])
    with new(tmp_path / "run") as store:
        one, two = store.commit([record, Record(1, "answer", "peer0000", {}, {"answer": cut})])
    assert one == two


def test_blocks_are_written_at_a_size_and_at_a_number_of_rounds(tmp_path: Path) -> None:
    with new(tmp_path / "rounds", block_rounds=2) as store:
        published = []
        for number in range(4):
            store.commit(step(number))
            published.append(RolloutArrays(tmp_path / "rounds" / "rollouts.zarr").counts.get("answer", 0))
    assert published == [0, 0, 9, 9]
    with new(tmp_path / "bytes", block_bytes=20_000) as store:
        store.commit(step(0))
        assert RolloutArrays(tmp_path / "bytes" / "rollouts.zarr").counts == {}
        store.commit(step(1, rows=500))
        assert RolloutArrays(tmp_path / "bytes" / "rollouts.zarr").counts["answer"] == 503


def test_what_waits_for_its_block_is_on_the_disk_only(tmp_path: Path) -> None:
    with new(tmp_path / "run") as store:
        store.commit(step(0))
        before = pa.total_allocated_bytes()
        for number in range(1, 5):
            store.commit(step(number, rows=500))
        assert RolloutArrays(tmp_path / "run" / "rollouts.zarr").counts == {}
        assert pa.total_allocated_bytes() < before + 100_000
        assert sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.wal")) > 1_000_000
        assert store.table("answer").num_rows == 2_003
        store.commit(step(5))
        assert store.table("answer").num_rows == 2_006 and store.flush() == 18
        assert store.table("answer").num_rows == 2_006 and store.flush() == 0


def test_a_block_is_not_made_of_what_the_disk_has_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(StoreError, match=r"00000000\.wal"), new(folder) as store:
        store.commit(step(0))
        store.commit(step(1))
        segment = folder / "journal" / "00000000.wal"
        data = bytearray(segment.read_bytes())
        data[200] ^= 1
        segment.write_bytes(data)
        with pytest.raises(StoreError, match=r"00000000\.wal"):
            store.flush()
        assert RolloutArrays(folder / "rollouts.zarr").counts == {}
    data[200] ^= 1
    segment.write_bytes(data)
    with RunStore.open(folder, "a") as store:
        assert ids(store) == expected_ids(2)


def stages_of_a_block(folder: Path) -> dict[str, Path]:
    """Return copies of a run as crashes between the steps of writing a block leave it."""
    copies = {name: folder.with_name(name) for name in ("journal only", "half", "unpublished", "published", "cut")}
    with new(folder) as store:
        store.commit([record for number in range(2) for record in step(number)])
        store.flush()
        store.commit([record for number in range(2, 4) for record in step(number)])
        shutil.copytree(folder, copies["journal only"])
        store.flush()
        shutil.copytree(folder, copies["cut"])
    before, after = copies["journal only"], copies["cut"]
    for name in ("unpublished", "published"):
        shutil.copytree(after, copies[name])
        shutil.rmtree(copies[name] / "journal")
        shutil.copytree(before / "journal", copies[name] / "journal")
    shutil.copyfile(before / "rollouts.zarr/zarr.json", copies["unpublished"] / "rollouts.zarr/zarr.json")
    shutil.copytree(before, copies["half"])
    for part in ("answer/messages", "steps/facts", "answer/ids/offsets"):
        shutil.copytree(after / "rollouts.zarr" / part, copies["half"] / "rollouts.zarr" / part, dirs_exist_ok=True)
    (copies["half"] / "rollouts.zarr/answer/id/c/0.partial").write_bytes(b"half a chunk")
    return copies


def test_a_crash_between_any_two_steps_loses_and_doubles_nothing(tmp_path: Path, finished: Path) -> None:
    for name, folder in stages_of_a_block(tmp_path / "run").items():
        assert ids(RunStore.open(folder)) == expected_ids(4), name
        with RunStore.open(folder, "a") as store:
            assert ids(store) == expected_ids(4), name
            assert store.steps().num_rows == 12, name
        assert tree(folder) == tree(finished), name
        with RunStore.open(folder, "a") as store:
            store.commit(step(4))
            assert ids(store) == expected_ids(5), name
        assert ids(RunStore.open(folder)) == expected_ids(5), name


def test_a_first_block_that_was_cut_is_written_anew(tmp_path: Path, finished: Path) -> None:
    folder = tmp_path / "run"
    with new(folder) as store:
        store.commit([record for number in range(4) for record in step(number)])
        shutil.copytree(folder, tmp_path / "cut")
    half = RolloutArrays(tmp_path / "cut" / "rollouts.zarr")
    half.append({"answer": step(0)[0].tables["answer"]})
    assert RunStore.open(tmp_path / "cut").table("answer").num_rows == 12
    RunStore.open(tmp_path / "cut", "a").close()
    assert tree(tmp_path / "cut") == tree(finished)


def test_a_torn_commit_is_cut_and_all_before_it_stays(tmp_path: Path) -> None:
    store = new(tmp_path / "run")
    store.commit(step(0))
    store.commit(step(1))
    shutil.copytree(tmp_path / "run", tmp_path / "torn")
    store.close()
    (segment,) = (tmp_path / "torn" / "journal").iterdir()
    os.truncate(segment, segment.stat().st_size - 1)
    assert RunStore.open(tmp_path / "torn").steps().num_rows == 3
    with RunStore.open(tmp_path / "torn", "a") as again:
        assert again.steps().num_rows == 3
        again.commit(step(1))
    assert tree(tmp_path / "torn") == tree(tmp_path / "run")


KILLED = """
import sys
from pathlib import Path
import pyarrow as pa
from genrl_graph.store.journal import Record
from genrl_graph.store.run_store import RunStore

store = RunStore.create(Path(sys.argv[1]), "graph: x", {}, block_rounds=5)
for number in range(100_000):
    rows = pa.table({"n": [number] * 2, "ids": [[number], []]})
    store.commit([Record(number, "node", "p", {}, {"node": rows})])
    print(number, flush=True)
"""


def test_a_killed_process_leaves_every_commit_that_it_reported(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 23:
            break
    with pytest.raises(StoreError, match=rf"process {writer.pid} is writing this run"):
        RunStore.open(tmp_path / "run", "a")
    writer.send_signal(signal.SIGKILL)
    reported = [23, *map(int, writer.stdout)][-1]
    writer.wait()
    writer.stdout.close()
    with RunStore.open(tmp_path / "run", "a") as store:
        found = store.table("node").column("n").to_pylist()
        assert len(found) // 2 in (reported + 1, reported + 2)
        assert found == [number for number in range(len(found) // 2) for _ in range(2)]
        assert store.table("node").column("ids").to_pylist()[-2:] == [[found[-1]], []]


def test_readers_see_whole_commits_while_a_writer_runs(tmp_path: Path) -> None:
    folder, rounds = tmp_path / "run", 12
    seen: list[int] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                found = ids(RunStore.open(folder))
                assert found == expected_ids(len(found) // 3)
                seen.append(len(found))
        except (AssertionError, StoreError, OSError) as error:
            failures.append(error)

    with new(folder, block_rounds=1) as store:
        store.commit(step(0))
        reader = threading.Thread(target=read)
        reader.start()
        for number in range(1, rounds):
            store.commit(step(number))
        done.set()
        reader.join()
    assert not failures
    assert seen == sorted(seen) and seen[-1] <= 3 * rounds


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    store = new(tmp_path / "run")
    with pytest.raises(StoreError, match=rf"process {os.getpid()} is writing this run"):
        RunStore.open(tmp_path / "run", "a")
    store.close()
    store.close()
    RunStore.open(tmp_path / "run", "a").close()
    with pytest.raises(StoreError, match="is not open for writing"):
        RunStore.open(tmp_path / "run").commit(step(0))


def test_graph_and_versions_come_back(tmp_path: Path) -> None:
    text = "graph: é\r\nnodes: {}\n\n"
    RunStore.create(tmp_path / "deep" / "run", text, {"torch": "2.8", "layout": {"a": 1}}).close()
    store = RunStore.open(tmp_path / "deep" / "run")
    assert store.graph_yaml == text
    assert store.versions == {"torch": "2.8", "layout": {"a": 1}}
    assert store.checkpoints.is_folder()


def test_an_existing_folder_is_refused_and_left_alone(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(StoreError, match="holds a run already; name another folder"):
        new(finished)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds 'notes\.txt' but no graph\.yaml"):
        new(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(StoreError, match="is a file"):
        new(tmp_path / "notes.txt")
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "graph.yaml").unlink()
    with pytest.raises(StoreError, match=r"no graph\.yaml"):
        new(copy)  # rows of a run whose graph was lost are not written over


def test_a_creation_that_was_cut_is_no_run_and_is_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    new(folder).close()
    (folder / "graph.yaml").rename(folder / "graph.yaml.partial")
    with pytest.raises(StoreError, match=r"no run here, graph\.yaml is missing: its creation was interrupted"):
        RunStore.open(folder, "a")
    with new(folder) as store:
        store.commit(step(0))
    assert ids(RunStore.open(folder)) == expected_ids(1)


def test_what_is_no_run_or_a_newer_one_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no run here, .* there is no such folder"):
        RunStore.open(tmp_path / "none")
    new(tmp_path / "run").close()
    root = tmp_path / "run" / "rollouts.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"layout": 3', '"layout": 4'))
    for mode in ("r", "a", "a"):
        with pytest.raises(StoreError, match="layout 4 is newer than 3; upgrade genrl-graph"):
            RunStore.open(tmp_path / "run", mode)


def test_a_refused_record_leaves_nothing_behind(tmp_path: Path) -> None:
    def record(group: str, **columns: object) -> Record:
        return Record(0, "n", "p", {}, {group: pa.table(columns)})

    with new(tmp_path / "run") as store:
        store.commit([record("score", reward=[1.0], term=[["a"]])])
        good = record("score", reward=[2.0], term=[["b"]])
        refused = {
            r"^score\.reward: type int64; earlier rows have double": record("score", reward=[1], term=[["a"]]),
            r"^score\.term: column is missing": record("score", reward=[1.0]),
            r"^score\.new: new column": record("score", reward=[1.0], term=[["a"]], new=[1]),
            r"^score\.reward: holds null": record("score", reward=pa.array([None], pa.float64()), term=[["a"]]),
            r"^steps: the name 'steps' is taken": record("steps", a=[1]),
            r"^a//b: '' cannot name": record("a//b", a=[1]),
            r"^g: 'x/y' cannot name": record("g", **{"x/y": [1]}),
            r"^g: '__x' cannot name": record("g", __x=[1]),
            r"^g: '\.\.' cannot name": record("g", **{"..": [1]}),
            r"^score/term: group 'score' has a column 'term'": record("score/term", a=[1]),
            r"^score/reward/x: group 'score' has a column 'reward'": record("score/reward/x", a=[1]),
        }
        for message, bad in refused.items():
            with pytest.raises(StoreError, match=message):
                store.commit([good, bad])
        store.commit([record("update/trained", a=[1])])
        with pytest.raises(StoreError, match=r"^update/trained: group 'update' has a column 'trained'"):
            store.commit([record("update", trained=[1])])
        with pytest.raises(StoreError, match="no group 'scores'; it has score, update/trained"):
            store.table("scores")
        assert store.table("score").num_rows == 1


@pytest.mark.parametrize("flushed", [False, True])
def test_a_group_may_begin_without_rows(tmp_path: Path, flushed: bool) -> None:
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8, dtype=np.float32).reshape(2, 2, 2))
    empty = pa.table({"ids": [], "image": pa.array([], pa.fixed_shape_tensor(pa.float32(), [0]))})
    full = pa.table({"ids": [["a"], []], "image": tensor})
    with new(tmp_path / "run") as store:
        for number, table in enumerate([empty, full, empty, full]):
            store.commit([Record(number, "n", "p", {}, {"n": table})])
            if flushed:
                store.flush()
            assert RunStore.open(tmp_path / "run").table("n").num_rows == [0, 2, 2, 4][number]
    found = RunStore.open(tmp_path / "run").table("n")
    assert found.column("ids").to_pylist() == [["a"], [], ["a"], []]
    root: Any = zarr.open(str(tmp_path / "run" / "rollouts.zarr"), mode="r")
    images = root["n/image"]
    assert images.shape == (4, 2, 2)
    np.testing.assert_array_equal(images[2:], np.arange(8).reshape(2, 2, 2))


def test_a_full_disk_keeps_what_was_committed_and_the_block_can_be_written_later(
    tmp_path: Path, finished: Path
) -> None:
    with new(tmp_path / "run") as store:
        store.commit([record for number in range(2) for record in step(number)])
        store.flush()
        store.commit([record for number in range(2, 4) for record in step(number)])
        with disk_full(64), pytest.raises(StoreError, match=r"cannot write a block: File too large") as caught:
            store.flush()
        assert str(tmp_path / "run" / "rollouts.zarr") in str(caught.value)
        with disk_full(64), pytest.raises(StoreError, match=r"\.wal: cannot append to the journal"):
            store.commit(step(4))
        assert ids(store) == ids(RunStore.open(tmp_path / "run")) == expected_ids(4)
    assert tree(tmp_path / "run") == tree(finished)


def test_more_rows_than_a_chunk_come_back(tmp_path: Path) -> None:
    count = 70_000
    table = pa.table({"n": np.arange(count), "text": np.arange(count).astype(str), "one": [[1]] * count})
    with new(tmp_path / "run") as store:
        for number in range(2):
            store.commit([Record(number, "n", "p", {}, {"n": table})])
            store.flush()
    found = RunStore.open(tmp_path / "run").table("n", range(1, 2))
    assert found.select(["n", "text", "one"]).equals(table)


NESTED_TEXTS = {
    "texts": lambda texts: pa.array(texts),
    "lists of texts": lambda texts: pa.array([[text] for text in texts]),
    "chats": lambda texts: pa.array([[{"role": "user", "content": text}] for text in texts], CHAT),
}


@pytest.mark.parametrize("kind", NESTED_TEXTS)
@pytest.mark.parametrize("reopened", [False, True])
def test_texts_too_long_for_a_chunk_are_refused_before_they_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reopened: bool
) -> None:
    monkeypatch.setattr(chunks, "MAX_TEXT_BYTES", 2**20)

    def record(at: int, *texts: str) -> Record:
        return Record(at, "n", "p", {}, {"rows": pa.table({"x": NESTED_TEXTS[kind](texts)})})

    store = new(tmp_path / "run")
    for at in range(4):
        store.commit([record(at, "short", "é" * 50_000, "x" * 100)])
    if reopened:
        store.close()
        store = RunStore.open(tmp_path / "run", "a")
    for at in range(4, 7):
        if at == 5:
            with pytest.raises(StoreError, match=r"x.*: \d+ bytes of long texts in 4096 texts, of 524288 at most"):
                store.commit([record(at, *["é" * 30_000] * 3)])
        else:
            store.commit([record(at, "short")])
    store.commit([record(7, *["x" * 100] * 9000)])
    store.close()
    rows = RunStore.open(tmp_path / "run").table("rows")
    assert rows.num_rows == 4 * 3 + 2 + 9000 and set(rows.column("round").to_pylist()) == {0, 1, 2, 3, 4, 6, 7}
