"""The ranks of one peer: the first plays the game, the others run its calls of the policies that all of them share."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import distributed

from genrl_graph.errors import ExchangeTimeout
from genrl_graph.long_work import tell
from genrl_graph.nodes.policy.replicas.calls import Array, Arrays, Call, of_bytes, to_bytes

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

END = Call(-1, "end")

Methods = Mapping[str, Callable[[Call], Arrays]]
"""The methods of a policy that a call may name; each returns the arrays of this rank."""


class ReplicaGroup:
    """The ranks that share the policies of one peer, and the collectives by which they run each other's calls.

    `mesh` is the device mesh over which policies are sharded, `calls` a gloo group of the same ranks. `lost` names the
    ranks that are gone, for errors.
    """

    def __init__(self, mesh: "DeviceMesh", calls: "distributed.ProcessGroup", *, lost: Callable[[], str]) -> None:
        self.mesh, self._calls, self._lost = mesh, calls, lost
        self.rank, self.size = calls.rank(), calls.size()
        self._policies: list[Methods] = []
        self._works = True

    @property
    def leads(self) -> bool:
        """Return whether this rank plays the game."""
        return self.rank == 0

    def add(self, methods: Methods) -> int:
        """Add a policy, in the same order on all ranks; returns its number."""
        self._policies.append(methods)
        return len(self._policies) - 1

    def call(self, call: Call) -> list[Arrays]:
        """Run a call on all ranks; returns the arrays of all of them if it is `gathered`, else those of this one.

        Raises `ExchangeTimeout` where a rank is gone.
        """
        works, self._works = self._works, False  # a call that fails leaves the ranks out of step
        try:
            self._send(call.encode())
            results = self._run(call)
        except RuntimeError as error:
            raise self._failure(error) from error
        self._works = works
        return results

    def serve(self) -> None:
        """Run the calls of the first rank until it ends them; raises `ExchangeTimeout` where it is gone."""
        try:
            while (call := Call.decode(self._send(b""))) != END:
                self._run(call)
        except RuntimeError as error:
            raise self._failure(error) from error

    def end(self) -> None:
        """Let the other ranks end, if all of them are there."""
        if self.leads and self._works:
            self._works = False
            self._send(END.encode())

    def _run(self, call: Call) -> list[Arrays]:
        arrays = self._policies[call.policy][call.method](call)
        return self._gather(arrays) if call.gathered else [arrays]

    def _send(self, data: bytes) -> bytes:
        """Return the bytes that the first rank sends."""
        size = torch.tensor([len(data)])
        distributed.broadcast(size, group=self._calls, group_src=0)
        content = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.leads else _bytes(int(size))
        distributed.broadcast(content, group=self._calls, group_src=0)
        return data if self.leads else content.numpy().tobytes()

    def _gather(self, arrays: Arrays) -> list[Arrays]:
        """Return the arrays of all ranks on the first rank, an empty list on the others."""
        data = to_bytes(arrays)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(sizes, torch.tensor([len(data)]), group=self._calls)
        padded = _bytes(max(map(int, sizes)))
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.leads else None
        distributed.gather(padded, parts, group=self._calls, group_dst=0)
        pairs = zip(parts or [], sizes, strict=False)
        return [of_bytes(part.numpy()[: int(size)].tobytes()) for part, size in pairs]

    def _failure(self, error: RuntimeError) -> Exception:
        """Return the error of a rank that is gone; other errors of torch as they are."""
        text = " ".join(str(error).split())
        is_lost = isinstance(error, distributed.DistError) or "gloo" in text.lower() or "nccl" in text.lower()
        if not is_lost:
            return error
        lost = self._lost()
        tell(lost)  # torchrun ends the other ranks, too: then the run ends by its signal, not by the error
        return ExchangeTimeout(f"{lost}: {text[:200]}")


def shares(lengths: Array, parts: int) -> list[Array]:
    """Cut rows into `parts` runs of about equal sums of lengths; returns the positions of each, which may be none."""
    weights = np.maximum(np.asarray(lengths, np.float64), 1.0)
    middles = np.cumsum(weights) - weights / 2
    owners = np.floor(middles / max(weights.sum(), 1.0) * parts).astype(np.int64)
    return [np.flatnonzero(owners == part) for part in range(parts)]


def _bytes(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.uint8)
