"""A gather in a swarm against bare libp2p streams between the same peers, and torch gloo beside it.

The peers of the swarm are threads of this process, each with a host and a libp2p daemon of its own. The streams that
they are held against run between the same daemons at the same time: every peer sends every other one a request and
takes an answer of as many bytes. The ranks of gloo are processes.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles

import pytest
from gather_rows import EXCHANGE, SCHEDULE, rows_of_size
from hivemind.p2p import PeerID
from measure import Row, figures, interleaved, report

from genrl_graph.frames import Frame
from genrl_graph.resources import TaskBook
from genrl_graph.runners.admission import Admission, makers
from genrl_graph.runners.signals import Stop
from genrl_graph.runners.swarm.host import Host, Play
from genrl_graph.runners.swarm.identity import Identity
from genrl_graph.runners.swarm.limits import Limits
from genrl_graph.runners.swarm.meeting import PeerSwarm
from genrl_graph.runners.swarm.network import Network
from genrl_graph.runners.swarm.offers import MAX_ANNOUNCEMENT, Inbox
from genrl_graph.runners.swarm.signed import sign_message

HERE = Path(__file__).parent
BARE = "/bench/1"
REQUEST = 8
LIMITS = Limits(push_bytes=MAX_ANNOUNCEMENT)
SIZES = {1: (20, 3.0), 64: (20, 3.0), 1024: (9, 1.5), 16384: (3, 1.5)}
"""Kilobytes: repetitions, and the most times that a gather may take as long as the streams."""


@dataclass
class Seat:
    """One peer."""

    name: str
    host: Host
    swarm: PeerSwarm
    stop: Stop

    def gather(self, round: int, rows: Frame, wanted: int) -> None:
        """Meet the others; all of them must come."""
        self.swarm.begin(round)
        self.swarm.open(EXCHANGE, round=round, peer=self.name, offer=rows)
        met = self.swarm.close(EXCHANGE, round=round, peer=self.name, tasks=TaskBook({}), vocabularies={})
        assert len(met.packets) == wanted and not met.refusals, (met.facts, met.refusals)
        assert all(len(packet.rows) == len(rows) for packet in met.packets)


def seated(name: str, folder: Path, join: Sequence[str]) -> Seat:
    """A peer of the swarm."""
    inbox, stop = Inbox(SCHEDULE.protocol, {"gathered": 0}), Stop()
    identity = Identity.load(folder / f"{name}.key")
    play = Play(swarm="bench", protocol=SCHEDULE.protocol, name=name)
    host = Host.start(identity, play, network=Network(join=tuple(join)), limits=LIMITS, on_push=inbox.take)
    swarm = PeerSwarm(
        host,
        inbox,
        name=name,
        protocol=SCHEDULE.protocol,
        admissions={"gathered": Admission(EXCHANGE, makers(SCHEDULE, "gathered"))},
        staleness=0,
        sign=partial(sign_message, identity),
        stop=stop,
        tell=print,
    )
    return Seat(name, host, swarm, stop)


@contextmanager
def table(count: int, folder: Path) -> Iterator[list[Seat]]:
    """So many peers that know each other."""
    with ExitStack() as stack:
        seats: list[Seat] = []
        for at in range(count):
            seat = seated(f"peer{at:04d}", folder, seats[0].host.addresses if seats else ())
            stack.enter_context(seat.host)
            seats.append(seat)
        for seat in seats:
            assert len(seat.host.look()) == count
        yield seats


async def _answer(payload: Callable[[], bytes], _, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(REQUEST)
    writer.write(payload())
    await writer.drain()
    writer.close()


async def _ask(host: Host, peer_id: str, size: int) -> None:
    peer = PeerID.from_base58(peer_id)
    _, reader, writer = await host._presence.point.p2p.call_binary_stream_handler(peer, BARE)
    writer.write(bytes(REQUEST))
    got = 0
    while got < size:
        got += len(await reader.read(1 << 18))
    writer.close()


async def _ask_all(host: Host, others: Sequence[str], size: int) -> None:
    await asyncio.gather(*(_ask(host, other, size) for other in others))


class Table:
    """Gathers, and bare streams, among the same peers."""

    def __init__(self, seats: Sequence[Seat], pool: ThreadPoolExecutor) -> None:
        self._seats, self._pool, self._round, self._payload = seats, pool, 0, b""
        for seat in seats:
            p2p = seat.host._presence.point.p2p
            seat.host._thread.run(p2p.add_binary_stream_handler(BARE, partial(_answer, lambda: self._payload)))

    def gather(self, rows: Sequence[Frame]) -> None:
        """One exchange of all."""
        calls = [
            self._pool.submit(seat.gather, self._round, own, len(rows))
            for seat, own in zip(self._seats, rows, strict=True)
        ]
        self._round += 1
        for call in calls:
            call.result()

    def stream(self, size: int) -> None:
        """Every peer asks every other one for so many bytes."""
        if len(self._payload) != size:
            self._payload = os.urandom(size)
        ids = [seat.host.peer_id for seat in self._seats]
        asked = [
            seat.host._thread.submit(_ask_all(seat.host, [id for id in ids if id != seat.host.peer_id], size))
            for seat in self._seats
        ]
        for each in asked:
            each.result()


def gloo(count: int) -> Mapping[str, list[float]]:
    """The seconds of the slowest rank in every repetition, by kilobytes."""
    wanted = json.dumps({str(size): times for size, (times, _) in SIZES.items()})
    env = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_port())}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "gloo_gather.py"), str(rank), str(count), wanted],
            env={**env, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    told = [json.loads(process.communicate(timeout=600)[0].splitlines()[-1]) for process in processes]
    return {size: [max(times) for times in zip(*(each[size] for each in told), strict=True)] for size in told[0]}


def _port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def p95(times: Sequence[float]) -> float:
    """The 95th percentile."""
    return quantiles(times, n=20, method="inclusive")[-1]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_gather(folder: Path, count: int) -> None:
    rows, late = [], {}
    beside = gloo(count)
    with table(count, folder) as seats, ThreadPoolExecutor(count) as pool:
        meeting = Table(seats, pool)
        for size, (times, most) in SIZES.items():
            own = [rows_of_size(size, seed=at) for at in range(count)]
            calls = {"streams": partial(meeting.stream, size << 10), "gather": partial(meeting.gather, own)}
            for call in calls.values():
                call()
            found = interleaved(calls, times=times)
            streams = Row(f"bare streams, {size} kB", found["streams"])
            rows += [
                streams,
                Row(f"swarm gather, {size} kB", found["gather"], streams, at_most_ratio=most),
                Row(f"gloo gather, {size} kB", beside[str(size)], streams),
            ]
            late[f"swarm gather, {size} kB: p95, s"] = (p95(found["gather"]), None)
            late[f"bare streams, {size} kB: p95, s"] = (p95(found["streams"]), None)
    report(f"gather_{count}", f"Gather among {count} peers: everyone's bytes to everyone", rows)
    figures(f"gather_{count}_p95", f"Gather among {count} peers: 95th percentiles", late)
