"""`store verify` is the gate: a mutant of a run that it passes goes through every command without a traceback."""

import contextlib
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from fuzz_folder import snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants import mutate, records_of
from toys import toy_game

from genrl_graph.cli import run_command
from genrl_graph.errors import StoreError
from genrl_graph.store.journal import Record
from genrl_graph.store.run_store import RunStore

COMMANDS = (
    "runs .",
    "runs run",
    "rollouts run --failed",
    "lineage run 0",
    "rows run credit_answer -o out.jsonl",
    "draw --run run",
    "replay run game.yaml -o replayed -q",
    "store compact run",
    "store verify run",
    "resume run -q run.rounds=3",
    "store verify run",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a game and its run."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "game.yaml").write_text(
        toy_game().dump() + "run: {rounds: 2, peers: 2, checkpoint_every: 1, trackers: []}\n"
    )
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        assert run_command(["run", "game.yaml", "-o", "run", "-q"]) == 0
    return folder


def test_one_that_passes_and_one_that_is_refused(base: Path) -> None:
    assert [goes_through(base, seed) for seed in (1, 0)] == [True, False]


@pytest.mark.long
@settings(max_examples=6)
@given(st.integers(0, 2**32))
def test_what_passes_goes_through_every_command(base: Path, seed: int) -> None:
    goes_through(base, seed)


def goes_through(base: Path, seed: int) -> bool:
    """Mutate a copy of the run, play all commands on it if `store verify` passes it, and return whether it does."""
    with TemporaryDirectory() as name:
        work, outside = Path(shutil.copytree(base, Path(name) / "work")), Path(name) / "outside"
        outside.mkdir()
        (outside / "precious").write_text("mine")
        done = mutate(work / "run", random.Random(seed), outside)
        before = snapshot(outside)
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with contextlib.chdir(work), quiet[0], quiet[1]:
            passes = run_command(["store", "verify", "run"]) == 0
            for command in COMMANDS if passes else ():
                code = run_command(command.split())  # raises nothing but what it reports
                assert code == 0 or not command.startswith("store"), (command, done)
        assert snapshot(outside) == before, done
        return passes


def rewritten(base: Path, folder: Path, change: Callable[[Record], Record]) -> Path:
    """Write the run of `base` anew with changed records, so that all of its hashes hold."""
    store = RunStore.open(base / "run")
    with RunStore.create(folder, store.graph_yaml, store.versions) as written:
        written.commit([change(record) for record in records_of(store)])
    for name in ("metrics.jsonl", "checkpoints"):
        source, target = base / "run" / name, folder / name
        if source.is_dir():
            shutil.rmtree(target)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return folder


def facts(node: str, **values: Any) -> Callable[[Record], Record]:
    def change(record: Record) -> Record:
        if record.node != node:
            return record
        return Record(record.round, record.node, record.holder, {**record.facts, **values}, record.tables)

    return change


def column(group: str, name: str, value: object) -> Callable[[Record], Record]:
    def change(record: Record) -> Record:
        if group not in record.tables:
            return record
        table = record.tables[group]
        values = pa.array([value] * table.num_rows)
        table = table.set_column(table.column_names.index(name), name, values)
        return Record(record.round, record.node, record.holder, record.facts, {**record.tables, group: table})

    return change


def without(group: str) -> Callable[[Record], Record]:
    def change(record: Record) -> Record:
        tables = {name: table for name, table in record.tables.items() if name != group}
        return Record(record.round, record.node, record.holder, record.facts, tables)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (facts("answers", own_rows={"answers": [[0, 0, 2**30]]}), "own rows of an exchange: rows 0 to 1073741824 of"),
        (facts("answers", own_rows={"answers": [[0, 0, -1]]}), "fact own_rows"),
        (facts("update", digests={"update": 7}), "fact digests.update"),
        (facts("update", metrics={"loss": "much"}), "fact metrics: could not convert string to float"),
        (facts("answer", types={"answer": ["Nothing", []]}), "rows of type Nothing"),
        (column("answer", "completion", 7), "Rollouts.completion: wants string"),
        (column("answer", "prompt_ids", "text"), "Rollouts.prompt_ids: wants list"),
        (without("answer"), "its record (peer0000) holds no rows of it"),
    ],
    ids=["own rows", "own row", "digest", "metric", "type", "text", "list", "no rows"],
)
def test_records_that_make_no_sense_are_found_though_all_hashes_hold(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Record], Record], expected: str
) -> None:
    folder = rewritten(base, tmp_path / "run", change)
    assert run_command(["store", "verify", str(folder)]) == StoreError.exit_code
    assert expected in capsys.readouterr().out


def test_a_run_written_anew_without_a_change_passes(base: Path, tmp_path: Path) -> None:
    assert run_command(["store", "verify", str(rewritten(base, tmp_path / "run", lambda record: record))]) == 0
