"""Threads and precision of this process: set the number of threads, and describe both for the run folder."""

import os
import sys
from pathlib import Path

from genrl_graph.contract.policy import Policy
from genrl_graph.runners.loop.peers import Peer

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads of torch; the default is this process's share of the processors.

    With N processes per node (`LOCAL_WORLD_SIZE`) the share is 1/N; one of all processors is left to torch. Where
    `OMP_NUM_THREADS` is set, other libraries follow it, and so does torch without `threads`.
    """
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        share = max(1, processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        threads = share if share < (os.cpu_count() or 1) else None
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        import torch

        torch.set_num_threads(threads)


def processors(quota: Path = QUOTA) -> int:
    """Return the number of processors that this process may use, by its CPU affinity and its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
        return count if most == "max" else max(1, min(count, int(most) // int(period)))
    except (OSError, ValueError):  # no control group, or none of this version
        return count


def computing(peer: Peer) -> dict[str, str]:
    """Return the precision of each policy and the number of torch threads, which results depend on bit by bit."""
    precisions = {name: policy.computes for name, policy in peer.carries.items() if isinstance(policy, Policy)}
    settings = {f"policy {name}": computes for name, computes in precisions.items() if computes}
    if settings and "torch" in sys.modules:
        settings["threads"] = str(sys.modules["torch"].get_num_threads())
    return settings
