"""Memory of this process on the host and on CUDA devices, and the allocator settings of a program."""

import os
import resource
import sys
from pathlib import Path

from genrl_graph.allocator import of_libc

GB = 1e9
STATUS, MEMINFO, GROUP = Path("/proc/self/status"), Path("/proc/meminfo"), Path("/sys/fs/cgroup")
MMAP_BYTES, TRIM_BYTES = 4 << 20, 64 << 20
"""Size from which an allocation has pages of its own (mmap), and free bytes at the heap's end that are not returned."""
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # the numbers of mallopt(3)
CACHED_KERNELS = 256
"""Matrix-product shapes whose code oneDNN and torch cache, half a megabyte each; a micro-batch has about 100."""


def settle_memory() -> None:
    """Configure malloc and kernel caches against memory growth; a program calls it before it loads torch.

    - Large tensors get pages of their own, which return to the system when freed. In one heap short-lived activations
      would leave holes between longer-lived tensors.
    - All threads share one heap. With a heap per thread memory grows for thousands of rounds, until every thread has
      had its largest allocations.
    - Caches of compiled kernels are bounded: packed rows bring new matrix shapes in every round.

    Environment variables of glibc, oneDNN and torch that are set already win.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # both are 1024 by default
        os.environ.setdefault(name, str(CACHED_KERNELS))
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: fewer page faults when memory is first used
    adjust = of_libc("mallopt")
    if adjust is None:
        return
    if "MALLOC_ARENA_MAX" not in os.environ:
        adjust(ARENA_MAX, 1)
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        adjust(MMAP_THRESHOLD, MMAP_BYTES)
        adjust(TRIM_THRESHOLD, TRIM_BYTES)  # the default depends on the other threshold and would trim all the time


def memory() -> dict[str, float]:
    """Return the memory of this process in 10^9 bytes: resident, its peak, and the peak of a CUDA device.

    The resident size needs /proc; the device peak needs torch, which is not imported for it.
    """
    sizes_gb = {}
    if STATUS.exists():  # ru_maxrss would also count the process that started this one
        lines = (line.partition(":") for line in STATUS.read_text().splitlines())
        sizes = {key: value.split()[0] for key, _, value in lines if key in ("VmRSS", "VmHWM")}
        sizes_gb = {"memory/rss_gb": int(sizes["VmRSS"]) * 1024 / GB, "memory/peak_gb": int(sizes["VmHWM"]) * 1024 / GB}
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        sizes_gb["memory/peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        sizes_gb["memory/device_gb"] = max(torch.cuda.max_memory_allocated(device) for device in devices) / GB
    return sizes_gb


def free_memory() -> float | None:
    """Return the bytes that new processes can take: free on the machine and within the control group, if known."""
    sizes = []
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        sizes.append(int(lines["MemAvailable"].split()[0]) * 1024)
        most = (GROUP / "memory.max").read_text().strip()
        if most != "max":
            sizes.append(int(most) - int((GROUP / "memory.current").read_text()))
    except (OSError, KeyError, ValueError):  # another system, or no control group
        pass
    return float(min(sizes)) if sizes else None


def free_device_memory() -> float:
    """Return the free bytes of the CUDA device of this process."""
    import torch

    return float(torch.cuda.mem_get_info()[0])
