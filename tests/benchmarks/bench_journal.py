"""Time of a commit against a plain write of the same bytes, and of moving a block of records to zarr."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import Clock, Row, interleaved, report

from genrl_graph import Rollouts
from genrl_graph.store.journal import Journal, Record
from genrl_graph.store.run_store import RunStore

ROWS, PROMPT, COMPLETION = 64, 256, 64
TIMES, BLOCK, FEW = 200, 64, 4


def rollouts() -> Rollouts:
    """Rows of the size that a generator gives."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(50_000, size=(ROWS // 4, PROMPT), dtype=np.int32)
    rows = [
        {
            "id": f"{at:032x}",
            "task_id": f"tasks/{at // 4}",
            "group_id": f"{at // 4:032x}",
            "parent_ids": [f"{parent:032x}" for parent in range(2)],
            "peer": "peer0000",
            "node": "answer",
            "stage": 0,
            "round": 0,
            "sample": at % 4,
            "policy": "policy",
            "policy_version": 0,
            "tokenizer_fingerprint": "t" * 32,
            "temperature": 1.0,
            "messages": [{"role": "user", "content": "four " * PROMPT}],
            "prompt_ids": prompts[at // 4],
            "completion_ids": rng.integers(50_000, size=COMPLETION, dtype=np.int32),
            "completion_mask": np.ones(COMPLETION, np.int8),
            "logprobs": rng.standard_normal(COMPLETION).astype(np.float32),
            "completion": "four " * COMPLETION,
            "finish_reason": "length",
            "error": "",
        }
        for at in range(ROWS)
    ]
    return Rollouts.from_rows(rows)


def test_journal_commit(folder: Path) -> None:
    record = Record(0, "answer", "peer0000", {}, {"answer": rollouts().table})
    journal = Journal(made(folder / "journal"))
    journal.append(record)
    (segment,) = (folder / "journal").iterdir()
    data = segment.read_bytes()
    with (folder / "plain").open("wb", buffering=0) as plain, store_at(folder / "run") as store:

        def write() -> None:
            plain.write(data)
            os.fsync(plain.fileno())

        calls: dict[str, Callable[[], object]] = {
            "write": write,
            "append": lambda: journal.append(record),
            "commit": lambda: store.commit([record]),
        }
        interleaved(calls, times=5)
        timings = interleaved(calls, times=TIMES)
    journal.close()
    plain_row = Row("write of the same bytes and one fsync", timings["write"])
    report(
        "journal",
        f"Journal: commit of one record of {ROWS} rollouts, {len(data) / 1000:.0f} kB",
        [
            plain_row,
            Row("Journal.append: Arrow, hash, write, fsync", timings["append"], plain_row),
            Row("RunStore.commit: the same, and columns checked", timings["commit"], plain_row),
        ],
    )


def test_block_flush(folder: Path) -> None:
    record = Record(0, "answer", "peer0000", {}, {"answer": rollouts().table})
    flushes: list[float] = []
    with store_at(folder / "blocks") as blocks, store_at(folder / "each") as each:

        def block() -> None:
            for _ in range(BLOCK):
                blocks.commit([record])
            flush = Clock(blocks.flush)
            flush()
            flushes.append(flush.seconds)

        def flush_after_each() -> None:
            for _ in range(FEW):
                each.commit([record])
                each.flush()

        calls = {"block": block, "each": flush_after_each}
        interleaved(calls, times=1)
        flushes.clear()
        timings = interleaved(calls, times=5)
    in_block = Row(f"record, a flush every {BLOCK} records", [seconds / BLOCK for seconds in timings["block"]])
    report(
        "block",
        f"Block: records of {ROWS} rollouts from the journal to zarr",
        [
            Row(f"flush of {BLOCK} records", flushes),
            in_block,
            Row("record, a flush after each", [seconds / FEW for seconds in timings["each"]], in_block),
        ],
    )


def store_at(folder: Path) -> RunStore:
    """A store that flushes when it is told to."""
    return RunStore.create(folder, "graph: bench\n", {}, block_bytes=1 << 40)


def made(folder: Path) -> Path:
    """The folder, which exists from now on."""
    folder.mkdir()
    return folder
