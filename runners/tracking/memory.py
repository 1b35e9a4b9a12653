"""How much memory this process holds, on the host and on CUDA devices, and how a program has it allocated."""

import os
import resource
import sys
from pathlib import Path

from genrl_graph.allocator import of_libc

GB = 1e9
STATUS = Path("/proc/self/status")
APART, KEPT = 4 << 20, 64 << 20
"""Bytes from which a tensor has pages of its own, and free ones at the end of the heap that stay for the next."""
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # the numbers of mallopt(3)
KERNELS = 256
"""Shapes of matrix products whose code oneDNN and torch keep, half a megabyte each; a micro-batch has about 100."""


def settle_memory() -> None:
    """For a program, before torch is loaded: large tensors lie apart and go back whole when they are freed.

    In one heap the short-lived ones of passes leave holes between longer-lived ones that few others fill. For small
    ones threads share the heaps that there are: with one each, these would grow for thousands of rounds, until every
    thread had done the most that any does. Packed rows bring new shapes of products in every round, so what is kept
    for them is bounded. What the variables of glibc, oneDNN or torch say stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # they are 1024
        os.environ.setdefault(name, str(KERNELS))
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: the first use of memory takes time
    adjust = of_libc("mallopt")
    if adjust is None:
        return
    if "MALLOC_ARENA_MAX" not in os.environ:
        adjust(ARENA_MAX, 1)
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        adjust(MMAP_THRESHOLD, APART)
        adjust(TRIM_THRESHOLD, KEPT)  # it would follow the other threshold, and shrink the heap all the time


def memory() -> dict[str, float]:
    """Gigabytes (10^9 bytes) of this process: held now, the most ever, and the most ever on a CUDA device.

    What is held now is known where there is a /proc; torch is asked where it is loaded and uses CUDA, never imported.
    """
    found = {}
    if STATUS.exists():  # ru_maxrss would also count the process that started this one
        lines = (line.partition(":") for line in STATUS.read_text().splitlines())
        sizes = {key: value.split()[0] for key, _, value in lines if key in ("VmRSS", "VmHWM")}
        found = {"memory/rss_gb": int(sizes["VmRSS"]) * 1024 / GB, "memory/peak_gb": int(sizes["VmHWM"]) * 1024 / GB}
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        found["memory/peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        found["memory/device_gb"] = max(torch.cuda.max_memory_allocated(device) for device in devices) / GB
    return found
