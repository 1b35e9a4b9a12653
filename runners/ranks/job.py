"""The ranks of a torchrun job: collectives of the first ranks of all groups, and how far each of them is."""

import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import numpy as np

from genrl_graph.errors import ExchangeTimeout, ParamError
from genrl_graph.runners.loop.signals import Stop, ended_at_once
from genrl_graph.runners.ranks.living import LivingRanks

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


def end_with(launcher: int) -> None:
    """End this rank by SIGTERM once torchrun, which holds the store where ranks meet, has gone without ending it."""
    while os.getppid() == launcher:
        time.sleep(LAUNCHER_PAUSE_S)
    os.kill(os.getpid(), signal.SIGTERM)
