"""How much memory this process holds, on the host and on CUDA devices."""

import resource
import sys
from pathlib import Path

GB = 1e9
STATUS = Path("/proc/self/status")


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
