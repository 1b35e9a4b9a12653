"""How this process computes: on how many threads, in what precision, and what a run folder notes of that."""

import os
import sys
from pathlib import Path

from genrl_graph.contract.policy import Policy
from genrl_graph.runners.loop.peers import Peer

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def set_threads(threads: int | None) -> None:
    """Let torch use so many CPU threads; by default its share of the processors, where that is less than all.

    `OMP_NUM_THREADS`, where it is set, is left to other libraries, and without `threads` is what torch uses, too.
    """
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        share = max(1, processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        threads = share if share < (os.cpu_count() or 1) else None
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        import torch

        torch.set_num_threads(threads)


def processors(quota: Path = QUOTA) -> int:
    """How many processors this process may use: those of its affinity, or what its control group is given of them."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
        return count if most == "max" else max(1, min(count, int(most) // int(period)))
    except (OSError, ValueError):  # no control group, or none of this version
        return count


def computing(peer: Peer) -> dict[str, str]:
    """What a run folder notes: what each policy computes in, and on how many threads; other ones give other bits."""
    found = {name: policy.computes for name, policy in peer.carries.items() if isinstance(policy, Policy)}
    found = {f"policy {name}": computes for name, computes in found.items() if computes}
    if found and "torch" in sys.modules:
        found["threads"] = str(sys.modules["torch"].get_num_threads())
    return found
