"""A gather in a swarm against bare libp2p streams between the same peers, and torch gloo beside it.

Every peer is a process with a libp2p daemon of its own, as in a real swarm. The streams that a gather is held against
run between the same daemons: every peer sends every other one a request and takes an answer of as many bytes.
"""

import json
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles

import pytest
from measure import Row, figures, interleaved, report, started

HERE = Path(__file__).parent
WARM = 3  # rounds before any is timed: memory that is used for the first time is slow
SIZES = {1: (20, 3.0), 64: (20, 3.0), 1024: (15, 1.5), 16384: (7, 1.5)}
"""Kilobytes: repetitions, and the most times that a gather may take as long as the streams."""


class Peers:
    """Processes that are told what to do."""

    def __init__(self, count: int, folder: Path) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        join: list[str] = []
        ids = []
        for at in range(count):
            self._processes.append(started("gather_peer.py", f"peer{at:04d}", str(folder), *join[:1]))
            peer_id, addresses = json.loads(self._line(self._processes[-1]))
            ids.append(peer_id)
            join += addresses
        self("peers", ids)

    def __call__(self, what: str, value: object) -> None:
        """Let all of them do it at once, and wait for the last."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps([what, value]) + "\n")
            process.stdin.flush()
        for process in self._processes:
            assert self._line(process) == "done\n"

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            process.wait(30)

    @staticmethod
    def _line(process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "a peer has died"
        return line


@contextmanager
def swarm(count: int, folder: Path) -> Iterator[Peers]:
    """So many peers that know each other."""
    peers = Peers(count, folder)
    try:
        yield peers
    finally:
        peers.close()


def gloo(count: int) -> Mapping[str, list[float]]:
    """The seconds of the slowest rank in every repetition, by kilobytes."""
    wanted = json.dumps({str(size): times for size, (times, _) in SIZES.items()})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    job = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [started("gloo_gather.py", str(rank), str(count), wanted, **job, RANK=str(rank)) for rank in range(count)]
    told = [json.loads(rank.communicate(timeout=600)[0].splitlines()[-1]) for rank in ranks]
    return {size: [max(times) for times in zip(*(each[size] for each in told), strict=True)] for size in told[0]}


def p95(times: Sequence[float]) -> float:
    """The 95th percentile."""
    return quantiles(times, n=20, method="inclusive")[-1]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_gather(folder: Path, count: int) -> None:
    rows, late = [], {}
    beside = gloo(count)
    with swarm(count, folder) as peers:
        for size, (times, most) in SIZES.items():
            calls = {what: partial(peers, what, size) for what in ("streams", "gather")}
            for call in [*calls.values()] * WARM:
                call()
            timings = interleaved(calls, times=times)
            streams = Row(f"bare streams, {size} kB", timings["streams"])
            rows += [
                streams,
                Row(f"swarm gather, {size} kB", timings["gather"], streams, at_most_ratio=most),
                Row(f"gloo gather, {size} kB", beside[str(size)], streams),
            ]
            for what in calls:
                late[f"{what}, {size} kB: p95 in s"] = (p95(timings[what]), None)
    report(f"gather_{count}", f"Gather among {count} peers: everyone's bytes to everyone", rows)
    figures(f"gather_{count}_p95", f"Gather among {count} peers: 95th percentiles", late)
