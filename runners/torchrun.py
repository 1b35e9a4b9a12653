"""The torch runner: every rank of a torchrun job is a peer, and exchanges are collectives on tensors of bytes."""

import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal

import numpy as np

from genrl_graph.contract.node import Carry, Exchange, Packet, PolicyCarry
from genrl_graph.contract.policy import Carried
from genrl_graph.dag.replicas import shared_carries
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ExchangeTimeout, ParamError
from genrl_graph.messages import counted
from genrl_graph.runners.living_ranks import LivingRanks
from genrl_graph.runners.loop.exchange import ExchangeResult, Swarm, WaitReport
from genrl_graph.runners.loop.peers import Make, peer_names, require_enough
from genrl_graph.runners.loop.runner import Bootnodes, RunProgress, Tell, exchanges
from genrl_graph.runners.loop.signals import Stop, ended_at_once, noted_signals
from genrl_graph.store.peer_folders import run_folders
from genrl_graph.wire.packet import decode, encode

if TYPE_CHECKING:
    import torch
    from torch import distributed
    from torch.distributed import Store, Work

    from genrl_graph.nodes.policy.replicas.group import ReplicaGroup

Backend = Literal["gloo", "nccl"]

START_TIMEOUT_S = 600.0
LAUNCHER_PAUSE_S = 0.5
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 5e-5, 5e-3
MAX_TEXT = 4096
NEVER = timedelta(days=365)
"""The time after which ranks of a group give a call up: they also wait while the first asks an endpoint or a peer."""


class TorchRunner:
    """Plays one peer per group of `run.replicas` ranks: group i of a torchrun job is the peer `peer_names(n)[i]`.

    The first rank of a group plays the game; the others hold parts of its policies and compute for it. Each peer has
    its own folder, as in a local run. An exchange closes when all peers have reached it. A rank that is late by more
    than the exchange's `timeout_s` is reported and waited for, or with `on_short: fail` ends the job; a rank that dies
    ends it. Raises `ParamError` outside a torchrun job.
    """

    def __init__(self, *, backend: Backend = "gloo") -> None:
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            if name not in os.environ:
                launch = "torchrun --nproc-per-node 2 -m genrl_graph run ... --runner torch"
                raise ParamError(f"--runner torch: {name} is not set; start it with `{launch}`")
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.leads = self.rank == 0
        self._backend: Backend = backend
        if "TORCHELASTIC_RUN_ID" in os.environ:
            Thread(target=_end_with, args=(os.getppid(),), name="launcher", daemon=True).start()
        self._ranks: Ranks | None = None
        self._swarm: TorchSwarm | None = None
        self._group: ReplicaGroup | None = None
        self._in_groups_of(1)

    def configured(self, config: RunConfig) -> RunConfig:
        """Return the options with as many peers as groups; raises `ParamError` where the ranks make no whole groups."""
        if self.size % config.replicas:
            raise ParamError(
                f"run.replicas: {config.replicas}, but the job has {self.size} ranks; start a multiple of them"
            )
        self._in_groups_of(config.replicas)
        return config.model_copy(update={"peers": self.peers})

    def _in_groups_of(self, replicas: int) -> None:
        self.replicas, self.peers = replicas, self.size // replicas
        self.names: Sequence[str] = [peer_names(self.peers)[self.rank // replicas]]

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
        names = peer_names(self.peers)
        require_enough(schedule, names)
        self._ranks = ranks = self._join(stop)
        for name, protocol in zip(names, ranks.texts(schedule.protocol), strict=True):
            if protocol != schedule.protocol:
                what = f"{self.names[0]} plays a graph of protocol {schedule.protocol[:12]}"
                raise ParamError(f"--runner torch: {what}, {name} one of {protocol[:12]}; give all ranks one graph")
        chosen = ranks.texts(str(run or free()) if self.leads else "")[0]
        self._swarm = TorchSwarm(ranks, list(exchanges(schedule)), tell=tell)
        return run or Path(chosen), self._swarm

    def serve(self, schedule: Schedule, config: RunConfig, make: Make) -> bool:
        """Hold this rank's part of the policies and compute for the first rank of the group, until that ends it.

        Returns False on a first rank. Signals are its to take: it ends after a step, and all ranks with it.
        """
        if self.rank % self.replicas == 0:
            return False
        stop = Stop()
        with noted_signals(stop), ExitStack() as stack:
            self._ranks = self._join(stop)
            stack.callback(self._ranks.close, wait=False)
            for name in shared_carries(schedule.graph):
                carry = schedule.graph.carries[name].carry
                self.shared(carry, make(carry, name, config.seed))
            assert self._group is not None
            self._group.serve()
        return True

    def shared(self, carry: Carry, value: Carried) -> Carried:
        """Return a policy of which each rank of the group holds a part, or the value as it is if no ranks share it."""
        if self._group is None or not (isinstance(carry, PolicyCarry) and carry.shards):
            return value
        from genrl_graph.nodes.policy.compute.handle import CausalPolicy
        from genrl_graph.nodes.policy.replicas.policy import ReplicatedPolicy

        assert isinstance(value, CausalPolicy)
        return ReplicatedPolicy(value, self._group)

    def home(self, run: Path) -> Path:
        """Return `<run folder>/<peer name>`."""
        return run / self.names[0]

    def resume(self, run: Path) -> int:
        """Return how many ranks of this job each peer of a run gets; raises `ParamError` where some get none."""
        peers = len(run_folders(run))
        if not peers or self.size % peers:
            what = f"{run} has {counted(peers, 'peer')}, but the job has {self.size} ranks"
            raise ParamError(f"--runner torch: {what}; start a multiple of them")
        self._in_groups_of(self.size // peers)
        return self.replicas

    def peer_id(self, name: str) -> str | None:
        """Return None: ranks have names only."""
        return None

    def agree(self, kept: RunProgress) -> tuple[RunProgress, int | None]:
        """Return the shared progress, and the round of the first exchange that some peer has not closed."""
        assert self._ranks is not None and self._swarm is not None
        closed = int(self._ranks.numbers(kept.closed).min())
        complete = bool(self._ranks.numbers(int(kept.complete)).all())
        self._swarm.shared = closed
        a_round = len(self._swarm.order)
        return RunProgress(closed, complete), closed // a_round if a_round else None

    def begin(self, round: int) -> None:
        """Do nothing: exchanges keep the peers in step."""

    def metrics(self) -> Mapping[str, float]:
        """Return nothing: the ranks are one job."""
        return {}

    def close(self, *, failed: bool) -> None:
        """End the group and leave the job; wait for other peers, which may need this one, unless the run `failed`."""
        if self._group is not None:
            self._group.end()
        if self._ranks is not None:
            self._ranks.close(wait=not failed)

    def _join(self, stop: Stop) -> "Ranks":
        ranks = Ranks(self.rank, self.size, replicas=self.replicas, backend=self._backend, stop=stop)
        if self.replicas > 1:
            self._group = ranks.group(self.names[0])
        return ranks


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
    """The first ranks of all groups of a job: collectives that signals can interrupt, and how far each rank is.

    `size` is their number, and `rank` the number of this one's group.
    """

    def __init__(self, rank: int, size: int, *, backend: Backend, stop: Stop, replicas: int = 1) -> None:
        import torch
        from torch import distributed

        self.rank, self.size, self._stop = rank // replicas, size // replicas, stop
        self._replicas, self._backend = replicas, backend
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if backend == "nccl":
            torch.cuda.set_device(local)
        timeout = timedelta(seconds=START_TIMEOUT_S)
        try:
            with ended_at_once():
                _require_launcher()
                shared, _, _ = next(distributed.rendezvous("env://", rank, size, timeout=timeout))
                store = distributed.PrefixStore(f"try/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
                self._store: Store = distributed.PrefixStore("genrl_graph", store)
                if rank % replicas == 0:
                    self._store.set(f"place/{self.rank}", "-1")
                joined = distributed.PrefixStore("group", store)
                distributed.init_process_group(backend, store=joined, rank=rank, world_size=size)
                firsts = list(range(0, size, replicas))
                self._firsts = None if replicas == 1 else distributed.new_group(firsts, timeout=NEVER)
                self._calls = [] if replicas == 1 else self._groups(size)
        except (RuntimeError, ValueError, OSError) as error:
            raise ExchangeTimeout(
                f"--runner torch: cannot join the job: {' '.join(str(error).split())[:200]}"
            ) from error
        self._device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")

    def _groups(self, size: int) -> "list[distributed.ProcessGroup]":
        """Return a gloo group of the ranks of each peer; all ranks make all of them."""
        from torch import distributed

        starts = range(0, size, self._replicas)
        ranks = [list(range(start, start + self._replicas)) for start in starts]
        return [distributed.new_group(each, backend="gloo", timeout=NEVER) for each in ranks]

    def group(self, peer: str) -> "ReplicaGroup":
        """Return the group of this rank, whose ranks share the policies of a peer."""
        from torch.distributed.device_mesh import init_device_mesh

        from genrl_graph.nodes.policy.replicas.group import ReplicaGroup

        kind = "cuda" if self._backend == "nccl" else "cpu"
        meshes = init_device_mesh(kind, (self.size, self._replicas), mesh_dim_names=("peer", "replica"))
        alive = LivingRanks(self._store, peer, first=self.rank * self._replicas, count=self._replicas)
        return ReplicaGroup(meshes["replica"], self._calls[self.rank], lost=alive.lost)

    def gather(self, values: np.ndarray[tuple[int], np.dtype[np.generic]]) -> "tuple[list[torch.Tensor], Work]":
        """Start to gather an array of one length and dtype from every rank; they are complete once the work is done."""
        import torch
        from torch import distributed

        own = torch.from_numpy(values).to(self._device)
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        work = distributed.all_gather(gathered, own, group=self._firsts, async_op=True)
        assert work is not None
        return gathered, work

    def numbers(self, value: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Gather a number from every rank."""
        gathered, work = self.gather(np.asarray([value], dtype=np.int64))
        self.wait(work)
        return np.asarray([int(each) for each in gathered], dtype=np.int64)

    def texts(self, text: str) -> list[str]:
        """Gather a text of at most `MAX_TEXT` bytes from every peer."""
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
