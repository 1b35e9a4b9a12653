"""The torch runner: every rank of a torchrun job is a peer, and exchanges are collectives on tensors of bytes."""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

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
from genrl_graph.runners.loop.exchange import ExchangeResult, Swarm, WaitReport
from genrl_graph.runners.loop.peers import Make, peer_names, require_enough
from genrl_graph.runners.loop.runner import Bootnodes, RunProgress, Tell, exchanges
from genrl_graph.runners.loop.signals import Stop, noted_signals
from genrl_graph.runners.ranks.job import Backend, Ranks, end_with
from genrl_graph.store.peer_folders import run_folders
from genrl_graph.wire.packet import decode, encode

if TYPE_CHECKING:
    import torch
    from torch.distributed import Work

    from genrl_graph.nodes.policy.replicas.group import ReplicaGroup


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
            Thread(target=end_with, args=(os.getppid(),), name="launcher", daemon=True).start()
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

    def overrides(self, run: Path) -> Sequence[str]:
        """Give each peer of a run as many ranks of this job; raises `ParamError` where some are left over."""
        peers = len(run_folders(run))
        if not peers or self.size % peers:
            what = f"{run} has {counted(peers, 'peer')}, but the job has {self.size} ranks"
            raise ParamError(f"--runner torch: {what}; start a multiple of them")
        self._in_groups_of(self.size // peers)
        return [f"run.replicas={self.replicas}"]

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
