"""Cost of writing a run to disk and reading it back: early and late commits, blocks, bytes, files, columns."""

import os
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from measure import Clock, Row, figures, interleaved, report

from genrl_graph import Rollouts, play
from genrl_graph.graph_file.read import load
from genrl_graph.store.journal import Journal, Record
from genrl_graph.store.run_store import RunStore

GRAPHS = Path(__file__).parents[2] / "graphs"
ROWS, TOKENS = 64, 512
ROUNDS, SHORT = 5_000, 8
GROUPS = 31
TIMES = 7


def rollouts(round: int, *, tokens: int = TOKENS) -> pa.Table:
    """Rows with all columns; token ids as unlikely to repeat as in text, log-probs as random as they get."""
    rng = np.random.default_rng(round)
    ids = (rng.zipf(1.3, (ROWS, tokens)) % 50_000).astype(np.int32)
    rows = [
        {
            "id": rng.bytes(16).hex(),
            "task_id": f"tasks/{round * 16 + at // 4}",
            "group_id": f"{round * 16 + at // 4:032x}",
            "parent_ids": [],
            "peer": "peer0000",
            "node": "answer",
            "stage": 0,
            "round": round,
            "sample": at % 4,
            "policy": "policy",
            "policy_version": round,
            "tokenizer_fingerprint": "t" * 32,
            "temperature": 1.0,
            "messages": [{"role": "user", "content": f"What is {at} + {round}?"}],
            "prompt_ids": ids[at // 4, :SHORT],
            "completion_ids": ids[at],
            "completion_mask": np.ones(tokens, np.int8),
            "logprobs": rng.standard_normal(tokens).astype(np.float32),
            "completion": " ".join(map(str, ids[at])),
            "finish_reason": "length",
            "error": "",
        }
        for at in range(ROWS)
    ]
    return Rollouts.from_rows(rows).table


def records(round: int, *, tokens: int = TOKENS) -> list[Record]:
    """Return the records that a round of a generator and a reward commits."""
    table = rollouts(round, tokens=tokens)
    scored = pa.table({"id": table["id"], "reward": np.random.default_rng(round).standard_normal(ROWS)})
    return [
        Record(round, "answer", "peer0000", {}, {"answer": table}),
        Record(round, "score", "peer0000", {}, {"score": scored}),
    ]


def test_commit_of_a_round(folder: Path) -> None:
    given = records(0)
    with store_at(folder / "sized") as store:
        store.commit(given)
        (segment,) = (folder / "sized" / "journal").iterdir()
        data = segment.read_bytes()
        stored = [
            Record(r.round, r.node, r.holder, r.facts, {name: store.table(name) for name in r.tables}) for r in given
        ]
    (folder / "journal").mkdir()
    journal = Journal(folder / "journal")
    with (folder / "plain").open("wb", buffering=0) as plain, store_at(folder / "run") as store:

        def write() -> None:
            plain.write(data)
            os.fsync(plain.fileno())

        calls: dict[str, Callable[[], object]] = {
            "write": write,
            "append": lambda: journal.append_many(stored),
            "commit": lambda: store.commit(given),
        }
        interleaved(calls, times=3)
        timings = interleaved(calls, times=100)
    journal.close()
    plain_row = Row("write of the same bytes and one fsync", timings["write"])
    report(
        "store_commit",
        f"Store: commit of a round of {ROWS} rollouts of {TOKENS} tokens and their rewards, {len(data) / 1000:.0f} kB",
        [
            plain_row,
            Row("Journal: Arrow, hash, write, fsync", timings["append"], plain_row),
            Row("RunStore.commit: the same, and columns checked", timings["commit"], plain_row),
        ],
    )


def test_bytes_and_files(folder: Path) -> None:
    raw = 0
    at: dict[int, int] = {}
    with store_at(folder / "run") as store:
        for number in range(200):
            given = records(number)
            store.commit(given)
            raw += sum(table.nbytes for record in given for table in record.tables.values())
            if number in (99, 199):
                store.flush()
                at[number + 1] = len(files(folder / "run" / "rollouts.zarr"))
    size = sum(path.stat().st_size for path in files(folder / "run" / "rollouts.zarr"))
    figures(
        "store_size",
        f"Store: 200 rounds of {ROWS} rollouts of {TOKENS} tokens, {raw / 1e6:.0f} MB",
        {
            "bytes on disk to bytes of the columns": (size / raw, 1.0),
            "files after 100 rounds": (at[100], None),
            "more files for 1,000 rounds more": (10 * (at[200] - at[100]), None),
        },
    )


def test_a_long_run(folder: Path) -> None:
    """A run of 5,000 rounds costs as much a round as one that has just begun, and its columns are read at once."""
    short = [records(number, tokens=SHORT) for number in range(16)]

    def given(round: int) -> list[Record]:
        return [Record(round, r.node, r.holder, r.facts, r.tables) for r in short[round % len(short)]]

    with RunStore.create(folder / "old", "graph: bench\n", {}) as old, store_at(folder / "new") as new:
        for number in range(ROUNDS):
            old.commit(given(number))
        old.flush()
        rounds = {old: count(ROUNDS), new: count()}

        def block(store: RunStore) -> None:
            for _ in range(64):
                store.commit(given(next(rounds[store])))
            store.flush()

        calls: dict[str, Callable[[], object]] = {"new": lambda: block(new), "old": lambda: block(old)}
        interleaved(calls, times=1)
        timings = interleaved(calls, times=TIMES)
    young = Row("64 rounds and their block, a run at its beginning", [seconds / 64 for seconds in timings["new"]])
    late = Row(f"the same after {ROUNDS} rounds", [s / 64 for s in timings["old"]], young, at_most_ratio=1.2)
    report("store_late", f"Store: a round of {ROWS} short rollouts, early and late", [young, late])
    store = RunStore.open(folder / "old")
    rows = []
    for group, column in (("score", "reward"), ("answer", "completion_ids")):
        values = read(store, group, column)
        np.save(folder / "plain.npy", values)
        calls = {
            "numpy": lambda: np.load(folder / "plain.npy"),
            "store": partial(read, store, group, column),
        }
        times = interleaved(calls, times=TIMES)
        plain = Row(f"numpy.load of {values.nbytes / 1e6:.1f} MB", times["numpy"])
        rows += [plain, Row(f"{group}/{column} from the store, checksums compared", times["store"], plain)]
    report("store_read", f"Store: one column of {ROUNDS} rounds", rows)


def test_many_small_groups(folder: Path) -> None:
    rows = pa.table({"id": ["a" * 32] * 4, "task": ["b"] * 4, "ids": [[1, 2, 3]] * 4, "reward": [1.0] * 4})
    numbers = count()
    with store_at(folder / "run") as store, store_at(folder / "one") as one:

        def block(store: RunStore, groups: int) -> None:
            number = next(numbers)
            store.commit([Record(number, f"n{at}", "p", {}, {f"n{at}": rows}) for at in range(groups)])
            store.flush()

        calls = {"many": lambda: block(store, GROUPS), "one": lambda: block(one, 1)}
        interleaved(calls, times=1)
        timings = interleaved(calls, times=TIMES)
    single = Row("block of one group of 4 columns", timings["one"])
    report("store_groups", "Store: blocks of small groups", [single, Row(f"of {GROUPS}", timings["many"], single)])


def test_steps_of_the_tiny_game(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, flush, close, fsync = Clock(RunStore.commit), Clock(RunStore.flush), Clock(RunStore.close), Clock(os.fsync)
    monkeypatch.setattr(RunStore, "commit", lambda store, records: commit(store, records))
    monkeypatch.setattr(RunStore, "flush", lambda store: flush(store))
    monkeypatch.setattr(RunStore, "close", lambda store: close(store))
    monkeypatch.setattr(os, "fsync", fsync)
    parts: dict[str, list[float]] = {"all": [], "blocks": [], "syncs": [], "processor": []}
    for number in range(3):
        for clock in (commit, flush, close, fsync):
            clock.seconds = clock.cpu = 0.0
        run = play(load(GRAPHS / "tiny.yaml"), out=folder / f"run-{number}", rounds=100, quiet=True)
        steps = RunStore.open(run.folder).steps().num_rows
        parts["all"].append((commit.seconds + close.seconds) / steps)
        parts["blocks"].append(flush.seconds / steps)
        parts["syncs"].append(fsync.seconds / steps)
        parts["processor"].append((commit.cpu + close.cpu) / steps)
    whole = Row("commit and its share of the blocks", parts["all"], at_most_s=0.003)
    report(
        "store_tiny",
        "Store: a committed step of the tiny game, 100 rounds",
        [
            whole,
            Row("  of which blocks", parts["blocks"], whole),
            Row("  of which fsync, in all threads", parts["syncs"], whole),
            Row("  processor time", parts["processor"], whole),
        ],
    )


def test_rounds_of_the_smollm2_game(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the time of a run with the same time less that spent in the store: one run, so no noise between runs."""
    clocks = {name: Clock(getattr(RunStore, name)) for name in ("commit", "close")}
    monkeypatch.setattr(RunStore, "commit", lambda store, records: clocks["commit"](store, records))
    monkeypatch.setattr(RunStore, "close", lambda store: clocks["close"](store))
    whole = Clock(partial(play, load(GRAPHS / "quickstart.yaml"), out=folder / "run", rounds=1, quiet=True))
    whole()
    stored = sum(clock.seconds for clock in clocks.values())
    figures(
        "store_smollm2",
        "Store: a game on a real model, one round, loading and checkpoint included",
        {
            "seconds": (whole.seconds, None),
            "of which in the store": (stored, None),
            "to what it takes without": (whole.seconds / (whole.seconds - stored), 1.02),
        },
    )


def read(store: RunStore, group: str, column: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """All values of a column, one after the other."""
    values = store.table(group, columns=[column])[column]
    ragged = pa.types.is_list(values.type)
    return np.concatenate([(chunk.flatten() if ragged else chunk).to_numpy() for chunk in values.chunks])


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def store_at(folder: Path) -> RunStore:
    """A store that flushes when it is told to."""
    return RunStore.create(folder, "graph: bench\n", {}, block_bytes=1 << 40, block_rounds=1 << 30)
