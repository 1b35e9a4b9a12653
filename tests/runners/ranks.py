"""Start processes that play one game together, wait for them, and read their run folders."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pyarrow as pa

from genrl_graph.store.run_store import RunStore

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
GRACE_S = 20.0

CUT = """
# A process in which CUT_AT is set kills itself before that commit of its run.
import os, signal
from genrl_graph.store.run_store import RunStore

whole, left = RunStore.commit, [int(os.environ.get("CUT_AT", "0"))]

def committing(self, records):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, records)

RunStore.commit = committing
"""


@dataclass(frozen=True)
class Ended:
    """The exit code and output of a process."""

    code: int
    text: str


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: Sequence[str], **env: str) -> subprocess.Popen[str]:
    """Start a process with one thread."""
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(processes: Sequence[subprocess.Popen[str]], limit_s: float = LIMIT_S) -> list[Ended]:
    """Wait for all processes; once one has failed, the others get a short time to end, as under a launcher."""
    texts: list[str] = [""] * len(processes)

    def read(at: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            texts[at] = stream.read()

    readers = [Thread(target=read, args=(at, process)) for at, process in enumerate(processes)]
    for reader in readers:
        reader.start()
    until = time.monotonic() + limit_s
    while any(process.poll() is None for process in processes) and time.monotonic() < until:
        if any(process.poll() for process in processes):
            until = min(until, time.monotonic() + GRACE_S)
        time.sleep(0.05)
    for process in processes:
        if process.poll() is None:
            process.kill()
    for reader in readers:
        reader.join()
    return [Ended(process.wait(), text) for process, text in zip(processes, texts, strict=True)]


def play_ranks(
    arguments: Sequence[str],
    *,
    own: Sequence[Sequence[str]],
    env: Sequence[Mapping[str, str]] = (),
    limit_s: float = LIMIT_S,
) -> list[Ended]:
    """Play as the ranks of a torchrun job, each with arguments and environment of its own."""
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(len(own))}
    processes = [
        start(
            ["-m", "genrl_graph", *arguments, "--runner", "torch", *more],
            **job,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **(env[rank] if env else {}),
        )
        for rank, more in enumerate(own)
    ]
    return wait(processes, limit_s)


def rows_of(folder: Path, holder: str) -> dict[str, pa.Table]:
    """Return the rows of one holder in every group of a run."""
    store = RunStore.open(folder)
    found = {}
    for group in store.groups():
        table = store.table(group)
        found[group] = table.filter(pa.compute.equal(table["holder"], holder)).combine_chunks()
    return found


def digests_of(folder: Path, holder: str) -> list[str]:
    """Return the digests of one holder's weights after every update, in order."""
    steps = RunStore.open(folder).steps().to_pylist()
    return [step["facts"] for step in steps if step["holder"] == holder and '"digests"' in step["facts"]]
