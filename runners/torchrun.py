"""The torch runner: every rank of a torchrun job is a peer, and exchanges are collectives on tensors of bytes."""

import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal

import numpy as np

from genrl_graph.contract.node import Exchange, Packet
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ExchangeTimeout, ParamError
from genrl_graph.runners.loop.exchange import ExchangeResult, Swarm, WaitReport
from genrl_graph.runners.loop.peers import peer_names, require_enough
from genrl_graph.runners.loop.runner import Bootnodes, RunProgress, Tell, exchanges
from genrl_graph.runners.loop.signals import Stop, ended_at_once
from genrl_graph.wire.packet import decode, encode

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store, Work

Backend = Literal["gloo", "nccl"]

START_TIMEOUT_S = 600.0
LAUNCHER_PAUSE_S = 0.5
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 5e-5, 5e-3
MAX_TEXT = 4096


class TorchRunner:
    """Plays one peer per rank: rank i of a torchrun job is the peer `peer_names(n)[i]` of a local run.

    Each rank has its own folder. An exchange closes when all ranks have reached it. A rank that is late by more than
    the exchange's `timeout_s` is reported and waited for, or with `on_short: fail` ends the job; a rank that dies ends
    it. Raises `ParamError` outside a torchrun job.
    """

    def __init__(self, *, backend: Backend = "gloo") -> None:
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            if name not in os.environ:
                launch = "torchrun --nproc-per-node 2 -m genrl_graph run ... --runner torch"
                raise ParamError(f"--runner torch: {name} is not set; start it with `{launch}`")
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.leads = self.rank == 0
        self.names: Sequence[str] = peer_names(self.size)[self.rank : self.rank + 1]
        self._backend: Backend = backend
        if "TORCHELASTIC_RUN_ID" in os.environ:
            Thread(target=_end_with, args=(os.getppid(),), name="launcher", daemon=True).start()
        self._ranks: Ranks | None = None
        self._swarm: TorchSwarm | None = None

    def configured(self, config: RunConfig) -> RunConfig:
        """Return the options with as many peers as ranks."""
        return config.model_copy(update={"peers": self.size})

    def start(
        self,
        schedule: Schedule,
        *,
        run: Path | None,
        free: Callable[[], Path],
        stop: Stop,
        tell: Tell,
        bootnodes: Bootnodes,
    ) -> tuple[Path, Swarm]:
        """Join the job; the first rank chooses a free run folder. Raises `ParamError` where graphs differ."""
        names = peer_names(self.size)
        require_enough(schedule, names)
        self._ranks = ranks = Ranks(self.rank, self.size, backend=self._backend, stop=stop)
        for name, protocol in zip(names, ranks.texts(schedule.protocol), strict=True):
            if protocol != schedule.protocol:
                what = f"{names[self.rank]} plays a graph of protocol {schedule.protocol[:12]}"
                raise ParamError(f"--runner torch: {what}, {name} one of {protocol[:12]}; give all ranks one graph")
        self._require_all_roles(schedule, ranks.texts(",".join(schedule.graph.run.roles)))
        chosen = ranks.texts(str(run or free()) if self.leads else "")[0]
        self._swarm = TorchSwarm(ranks, list(exchanges(schedule)), tell=tell)
        return run or Path(chosen), self._swarm

    @staticmethod
    def _require_all_roles(schedule: Schedule, played: Sequence[str]) -> None:
        """Raise `ParamError` where no rank plays a role; `played` are the roles of each rank, "" for all."""
        missing = [role for role in schedule.game.graph.roles() if not any(role in p.split(",") for p in played)]
        if missing and all(played):
            raise ParamError(f"--runner torch: no rank plays role {missing[0]!r}; give one of them --role {missing[0]}")

    def home(self, run: Path) -> Path:
        """Return `<run folder>/<peer name>`."""
        return run / self.names[0]

    def peer_id(self, name: str) -> str | None:
        """Return None: ranks have names only."""
        return None

    def agree(self, kept: RunProgress) -> tuple[RunProgress, int | None]:
        """Return the shared progress, and the round of the first exchange that some rank has not closed."""
        assert self._ranks is not None and self._swarm is not None
        closed = int(self._ranks.numbers(kept.closed).min())
        complete = bool(self._ranks.numbers(int(kept.complete)).all())
        self._swarm.shared = closed
        a_round = len(self._swarm.order)
        return RunProgress(closed, complete), closed // a_round if a_round else None

    def begin(self, round: int) -> None:
        """Do nothing: exchanges keep the ranks in step."""

    def metrics(self) -> Mapping[str, float]:
        """Return nothing: the ranks are one job."""
        return {}

    def close(self, *, failed: bool) -> None:
        """Leave the job; wait for the other ranks, which may need this one, unless the run `failed`."""
        if self._ranks is not None:
            self._ranks.close(wait=not failed)


@dataclass(slots=True)
class _Opened:
    """An exchange that this rank has opened: its offer, also as bytes; the sizes of all offers once `work` is done."""

    place: int
    offer: Frame
    data: bytes
    sizes: "list[torch.Tensor]"
    work: "Work"
    since: float


class TorchSwarm:
    """Exchanges by two collectives: sizes when an exchange opens, padded bytes when it closes. Nothing is pickled.

    `order` are the exchanges in the order in which a round closes them. All ranks had closed the first `shared`
    exchanges of the run when it was interrupted.
    """

    trusted = True

    def __init__(self, ranks: "Ranks", order: Sequence[str], *, tell: Tell) -> None:
        self.order, self.shared = list(order), 0
        self._ranks, self._tell = ranks, tell
        self._names = peer_names(ranks.size)
        self._opened: dict[str, _Opened] = {}

    def wanted(self, node: Exchange, *, round: int) -> bool:
        """Return whether another rank was interrupted before it closed this exchange."""
        return self._place(node, round) >= self.shared

    def judged(self, *, round: int, seconds: Mapping[str, float], offenders: Collection[str]) -> None:
        """Do nothing: the ranks are one job."""

    def open(self, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        """Start to gather the sizes of all payloads; returns at once."""
        data, place = encode(offer, limits=node.limits), self._place(node, round)
        self._ranks.arrive(place)
        sizes, work = self._ranks.gather(np.asarray([len(data)], dtype=np.int64))
        self._opened[node.place.node] = _Opened(place, offer, data, sizes, work, time.monotonic())

    def close(
        self, node: Exchange, *, round: int, peer: str, tasks: TaskBook, vocabularies: Mapping[str, int]
    ) -> ExchangeResult:
        """Gather the offers of all ranks; raises `ExchangeTimeout` where one died, or is late with `on_short: fail`."""
        opened = self._opened.pop(node.place.node)
        self._wait(opened.work, node, round, opened)
        sizes = [int(size) for size in opened.sizes]
        padded = np.zeros(max(sizes), dtype=np.uint8)
        padded[: len(opened.data)] = np.frombuffer(opened.data, dtype=np.uint8)
        payloads, work = self._ranks.gather(padded)
        self._wait(work, node, round, opened)
        packets = []
        for name, size, payload in zip(self._names, sizes, payloads, strict=True):
            data = payload.cpu().numpy()[:size].tobytes()
            rows = opened.offer if name == peer else decode(data, like=opened.offer, limits=node.limits)
            packets.append(Packet(name, round, rows))
        return ExchangeResult(tuple(packets))

    def _place(self, node: Exchange, round: int) -> int:
        """Return the number of exchanges that the run closes before this one."""
        return round * len(self.order) + self.order.index(node.place.node)

    def _wait(self, work: "Work", node: Exchange, round: int, opened: _Opened) -> None:
        """Wait for a collective, and report for whom. Raises `ExchangeTimeout`, which names the exchange."""
        where = f"nodes.{node.place.node} (round {round})"
        report, reported = WaitReport(node, self._tell, since=opened.since), False

        def absent() -> str:
            places = zip(self._names, self._ranks.places(), strict=True)
            return ", ".join(name for name, place in places if place < opened.place) or "a rank"

        def waiting() -> None:
            nonlocal reported
            report.waiting(absent)
            if reported or time.monotonic() - opened.since < node.timeout_s:
                return
            reported = True
            what = f"{where}: {absent()} did not come within {node.timeout_s:g} s"
            if node.on_short == "fail":
                raise ExchangeTimeout(f"{what}, and on_short is fail")
            self._tell(f"{what}; the ranks of a torchrun job wait for each other")

        try:
            self._ranks.wait(work, waiting)
        except RuntimeError as error:
            raise ExchangeTimeout(f"{where}: a rank is gone: {' '.join(str(error).split())[:200]}") from error


class Ranks:
    """The process group of a job: collectives that signals can interrupt, and how many exchanges each rank reached."""

    def __init__(self, rank: int, size: int, *, backend: Backend, stop: Stop) -> None:
        import torch
        from torch import distributed

        self.rank, self.size, self._stop = rank, size, stop
        timeout = timedelta(seconds=START_TIMEOUT_S)
        try:
            with ended_at_once():
                _require_launcher()
                shared, _, _ = next(distributed.rendezvous("env://", rank, size, timeout=timeout))
                store = distributed.PrefixStore(f"try/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
                self._store: Store = distributed.PrefixStore("genrl_graph", store)
                self._store.set(f"place/{rank}", "-1")
                joined = distributed.PrefixStore("group", store)
                distributed.init_process_group(backend, store=joined, rank=rank, world_size=size)
        except (RuntimeError, ValueError, OSError) as error:
            raise ExchangeTimeout(
                f"--runner torch: cannot join the job: {' '.join(str(error).split())[:200]}"
            ) from error
        local = int(os.environ.get("LOCAL_RANK", "0"))
        self._device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")

    def gather(self, values: np.ndarray[tuple[int], np.dtype[np.generic]]) -> "tuple[list[torch.Tensor], Work]":
        """Start to gather an array of one length and dtype from every rank; they are complete once the work is done."""
        import torch
        from torch import distributed

        own = torch.from_numpy(values).to(self._device)
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        work = distributed.all_gather(gathered, own, async_op=True)
        assert work is not None
        return gathered, work

    def numbers(self, value: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Gather a number from every rank."""
        gathered, work = self.gather(np.asarray([value], dtype=np.int64))
        self.wait(work)
        return np.asarray([int(each) for each in gathered], dtype=np.int64)

    def texts(self, text: str) -> list[str]:
        """Gather a text of at most `MAX_TEXT` bytes from every rank."""
        data = text.encode()
        if len(data) > MAX_TEXT:
            raise ParamError(
                f"--runner torch: {text[:40]!r}... has {len(data)} bytes, more than {MAX_TEXT}; shorten it"
            )
        padded = np.zeros(MAX_TEXT, dtype=np.uint8)
        padded[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        gathered, work = self.gather(padded)
        self.wait(work)
        return [each.cpu().numpy().tobytes().rstrip(b"\0").decode() for each in gathered]

    def arrive(self, place: int) -> None:
        """Publish the number of the exchange that this rank has reached."""
        self._store.set(f"place/{self.rank}", str(place))

    def places(self) -> list[int]:
        """Return the number of the exchange that each rank has reached, -1 before the first."""
        return [int(self._store.get(f"place/{rank}")) for rank in range(self.size)]

    def wait(self, work: "Work", waiting: Callable[[], None] = lambda: None) -> None:
        """Wait for a collective, and call `waiting` meanwhile.

        Raises `Interrupted` after a signal, the errors of `waiting`, and `RuntimeError` where a rank is lost.
        """
        pause = SHORTEST_PAUSE_S
        while not work.is_completed():
            self._stop.check()
            waiting()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        work.wait()

    def close(self, *, wait: bool) -> None:
        """Leave the process group; with `wait` only when all ranks do."""
        from torch import distributed

        if wait:
            self.numbers(0)
        distributed.destroy_process_group()


def _require_launcher() -> None:
    """Raise `OSError` where torchrun has gone before this rank looked: torch would wait for its store until the end."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection(address, timeout=START_TIMEOUT_S).close()


def _end_with(launcher: int) -> None:
    """End this rank by SIGTERM once torchrun, which holds the store where ranks meet, has gone without ending it."""
    while os.getppid() == launcher:
        time.sleep(LAUNCHER_PAUSE_S)
    os.kill(os.getpid(), signal.SIGTERM)
