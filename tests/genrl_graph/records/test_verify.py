"""Verification: a sound run has no problems, and every damage is reported with its file."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from genrl_graph.arrow.schema import Leaf
from genrl_graph.cli import run_command
from genrl_graph.errors import StoreError
from genrl_graph.records.verify import verify_run
from genrl_graph.store.arrays import root_file
from genrl_graph.store.chunks import ChunkedArray
from genrl_graph.store.journal import Record
from genrl_graph.store.manifest import write_manifest
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.run_store import RunStore

ROUNDS = 6


def records(number: int) -> list[Record]:
    chats = [[{"role": "user", "content": f"é{number}" * at}] * (at % 3) for at in range(4)]
    rows = {"id": [f"{number}-{at}" for at in range(4)], "messages": chats, "ok": [True, False, True, bool(number % 2)]}
    late = pa.table({"why": ["slow"] * (number == 3)})
    facts = {"late": {10: "a", 9: "b"}, "share": 0.1}
    return [
        Record(number, "answer", "peer0000", facts, {"answer": pa.table(rows), "answer/late": late}),
        Record(number, "score", "peer0000", {}, {"score": pa.table({"reward": np.linspace(0, 1, 4) * number})}),
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A killed run, whose last rounds are in the journal only, with two checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with RunStore.create(folder, "graph: x\nnodes: {}\n", {"pyarrow": pa.__version__}) as store:
        for number in range(ROUNDS):
            store.commit(records(number))
            if number == 3:
                store.flush()
        for rounds in (2, 4):
            peer = folder / "checkpoints" / f"{rounds:06d}" / "peer0000"
            peer.mkdir(parents=True)
            (peer / "weights").write_bytes(bytes(range(200)))
            write_manifest(peer.parent)
        shutil.copytree(folder, folder.with_name("killed"))
    return folder.with_name("killed")


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "run"))


def problems(folder: Path) -> list[str]:
    return verify_run(folder).problems


def test_a_sound_run_is_summed_up(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert run_command(["store", "verify", str(run)]) == 0
    said = capsys.readouterr().out
    # `answer/late` has no rows before round 3, so no types that the arrays could tell
    assert said.startswith(f"{run}: ok: 12 records (5 rebuilt from the arrays, 4 in the journal), 33 rows in 3 groups")
    assert "2 checkpoints" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert run_command(["store", "compact", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}: 4 records moved from the journal to zarr, 0 leftovers removed\n"
    assert not list((run / "journal").iterdir())
    assert verify_run(run).pending == 0 and problems(run) == []


def test_every_flipped_bit_of_a_chunk_or_a_record_or_a_checkpoint_is_found_and_named(run: Path) -> None:
    rng = np.random.default_rng(0)
    files = [*sorted(run.rglob("c/*")), *run.glob("journal/*.wal"), *sorted(run.glob("checkpoints/*/*/weights"))]
    files = [path for path in files if path.is_file()]
    assert len(files) > 20
    for number in range(50):
        path = files[number % len(files)]
        whole = path.read_bytes()
        at, bit = int(rng.integers(len(whole))), 1 << int(rng.integers(8))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        assert any(str(path) in problem for problem in problems(run)), f"{path}: byte {at}, bit {bit}"
        path.write_bytes(whole)
    assert problems(run) == []


def test_metadata_that_is_not_what_a_run_writes_is_named(run: Path) -> None:
    for path in sorted((run / "rollouts.zarr").rglob("zarr.json")):
        whole = path.read_bytes()
        if path.parent.name == "rollouts.zarr":
            continue  # without it there is no layout to check by
        for bad in (b"", b"{}", whole[:-3], whole.replace(b"zarr_format", b"zarr_formal")):
            path.write_bytes(bad)
            assert any(str(path) in problem for problem in problems(run)), path
        path.unlink()
        assert any(str(path) in problem for problem in problems(run)), path
        path.write_bytes(whole)
    assert problems(run) == []


def edit_root(folder: Path, change: Callable[[dict[str, int]], object]) -> None:
    path = folder / "rollouts.zarr" / "zarr.json"
    rows = json.loads(path.read_bytes())["attributes"]["genrl_graph"]["rows"]
    change(rows)
    path.write_bytes(root_file(rows))


def test_counts_that_do_not_fit_the_records_are_found(run: Path) -> None:
    RunStore.open(run, "a").close()
    edit_root(run, lambda rows: rows.update(score=23))
    assert [problem.split(": ", 1)[1] for problem in problems(run)] == [
        "23 rows of 'score' are published, but its records have 24; restore it from a copy"
    ]
    edit_root(run, lambda rows: rows.update(score=25))
    assert any("score/zarr.json" not in problem and "24 of 25 elements" in problem for problem in problems(run))
    edit_root(run, lambda rows: rows.pop("score"))
    reported = problems(run)
    assert any("no group 'score', which records have" in problem for problem in reported)
    assert any("score/zarr.json: belongs to no array" in problem for problem in reported)


def test_rows_changed_with_valid_checksums_do_not_give_the_hash_of_their_record(run: Path) -> None:
    array = ChunkedArray(RunPath.of(run / "rollouts.zarr/score/reward"), Leaf("reward", "", "float64"))
    rewards = array.read(0, 16).copy()
    rewards[9] += 1e-9
    for path, data in array.files(rewards, 0):
        path.write(data)
    (problem,) = problems(run)
    assert "record 5 (round 2, score, peer0000): its rows do not give the hash" in problem


def test_offsets_that_fall_are_found(run: Path) -> None:
    array = ChunkedArray(
        RunPath.of(run / "rollouts.zarr/answer/messages/offsets"), Leaf("m", "", "int64", into="values")
    )
    offsets = array.read(0, 17).copy()
    offsets[5] = 99
    for path, data in array.files(offsets, 0):
        path.write(data)
    assert any(f"{array.folder}: offset 6 is" in problem for problem in problems(run))


def test_what_is_missing_or_too_much_is_named(run: Path) -> None:
    RunStore.open(run, "a").close()
    missing = run / "rollouts.zarr/answer/id/c/0"
    missing.unlink()
    assert any(f"{missing}: chunk is missing" in problem for problem in problems(run))
    shutil.rmtree(run / "rollouts.zarr/answer/id")
    assert any(str(missing) in problem for problem in problems(run))


def test_strange_files_and_lost_ones_of_a_checkpoint_are_named(run: Path) -> None:
    RunStore.open(run, "a").close()
    strange = run / "rollouts.zarr/score/reward/c/7"
    strange.write_bytes(b"?")
    (run / "checkpoints/000002/peer0000/weights").unlink()
    (run / "checkpoints/000004/files.json").unlink()
    cut = run / "checkpoints/.000006.draft"
    cut.mkdir()
    (run / "rollouts.zarr/score/reward/c/1.partial").write_bytes(b"half")
    report = verify_run(run)
    first, second, third = report.problems
    assert "000002/peer0000/weights: is missing" in first
    assert "000004/files.json: cannot read: No such file" in second
    assert third == f"{strange}: belongs to no array; remove it"
    assert report.leftovers == 2


def test_a_torn_journal_is_told_and_cut_by_the_next_writer(run: Path) -> None:
    (segment,) = (run / "journal").iterdir()
    whole = segment.read_bytes()
    segment.write_bytes(whole + whole[:40])
    (problem,) = problems(run)
    assert f"{segment}: the 40 bytes from byte {len(whole)} on are no whole commit" in problem
    RunStore.open(run, "a").close()
    assert problems(run) == []
    assert RunStore.open(run).steps().num_rows == 2 * ROUNDS


def test_a_newer_journal_a_writer_and_a_graph_that_is_no_yaml(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (segment,) = (run / "journal").iterdir()
    data = bytearray(segment.read_bytes())
    struct.pack_into("<H", data, 4, 99)
    segment.write_bytes(data)
    text = (run / "graph.yaml").read_text()
    (run / "graph.yaml").write_text(text + "nodes: [\n")
    assert run_command(["store", "verify", str(run)]) == StoreError.exit_code
    said = capsys.readouterr().out.splitlines()
    assert "graph.yaml: is not YAML that a run writes" in said[0] and "journal version 99 is newer" in said[1]
    assert said[-1].startswith(f"{run}: damaged: ")
    (run / "graph.yaml").write_text(text)
    shutil.rmtree(run / "journal")
    (run / "journal").mkdir()
    with RunStore.open(run, "a"), pytest.raises(StoreError, match="is writing this run; wait for it"):
        verify_run(run)
