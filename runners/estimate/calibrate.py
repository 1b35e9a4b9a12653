"""Measures once what a machine and a model's layers take, and keeps it in the cache."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from genrl_graph.nodes.policy.loading.gguf_model import cache_root
from genrl_graph.runners.estimate.costs import Machine, Speeds
from genrl_graph.runners.estimate.measure import Clock, measure_machine, measure_speeds
from genrl_graph.runners.estimate.models import PolicySize
from genrl_graph.seeds import digest
from genrl_graph.store.durable import failed

CALIBRATION = 3  # grows when what is measured changes
BUSY = 0.15
"""The share of the processors that other programs may take while something is measured that is kept."""
LOOK_S = 0.5
"""How long is looked whether they do."""
GAIN = 0.6
"""What each further thread gains."""
STAT = Path("/proc/stat")


def machine_key() -> str:
    """What a calibration belongs to: processor, cores, threads, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line for line in lines if line.startswith(("model name", "CPU part"))][:1]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    parts = (*names, platform.node(), str(os.cpu_count()), str(torch.get_num_threads()), torch.__version__, device)
    return digest((CALIBRATION, *parts), size=6)


def model_key(sized: PolicySize) -> str:
    """What the speeds of a model belong to: its configuration, precision and device."""
    config = {key: value for key, value in sorted(sized.config.to_dict().items()) if not key.startswith("_")}
    for name in ("transformers_version", "dtype", "torch_dtype"):
        config.pop(name, None)
    shape = json.dumps(config, sort_keys=True, default=str)
    return digest((shape, str(sized.model.bfloat16), str(sized.device)), size=8)


def calibration_file() -> Path:
    """Where the calibration of this machine is kept."""
    return cache_root() / "calibrations" / f"{machine_key()}.json"


class BusyOthers:
    """How much of the processors other programs take, where there is a /proc."""

    def __init__(self) -> None:
        self._start = self._now()

    def share(self) -> float:
        """Their share of all processors since this was made; 0 where it cannot be known."""
        others, total = (end - start for start, end in zip(self._start, self._now(), strict=True))
        return max(others, 0.0) / total if total > 0 else 0.0

    def _now(self) -> tuple[float, float]:
        if not STAT.exists():
            return 0.0, 0.0
        ticks = [int(value) for value in STAT.read_text().split("\n", 1)[0].split()[1:9]]
        second = float(os.sysconf("SC_CLK_TCK"))
        idle = ticks[3] + ticks[4]
        return (sum(ticks) - idle) / second - time.process_time(), sum(ticks) / second


class Calibration:
    """What was measured on this machine; what is missing is measured when it is asked for, after `tell` said so."""

    def __init__(self, *, afresh: bool = False, tell: Callable[[str], None] = lambda text: None) -> None:
        self._file, self._tell = calibration_file(), tell
        self._kept: dict[str, Any] = {} if afresh else _read(self._file)
        self._rough: set[str] = set()

    def machine(self) -> Machine:
        """What this machine does, whatever the model."""
        if "machine" not in self._kept:
            self._tell("measuring this machine (a few seconds)")
            self._keep("machine", lambda clock: asdict(measure_machine(clock)))
        return Machine(**self._kept["machine"])

    def speeds(self, sized: PolicySize, *, name: str) -> Speeds:
        """What the layers of a model take here."""
        key = model_key(sized)
        if key not in self._kept:
            self._tell(f"measuring layers of {name} with random weights (about 20 s, once)")
            self._keep(key, lambda clock: asdict(measure_speeds(sized, clock)))
        return Speeds(**self._kept[key])

    def _keep(self, key: str, measure: Callable[[Clock], dict[str, float]]) -> None:
        busy = BusyOthers()
        time.sleep(LOOK_S)
        if busy.share() <= BUSY:
            busy = BusyOthers()
            self._kept[key] = measure(time.perf_counter)
        if (share := busy.share()) > BUSY:
            self._tell(
                f"other programs take {share:.0%} of the processors: measured roughly, by one thread's time, once"
            )
            with one_thread() as speedup:
                rough = measure(lambda: time.process_time() / speedup)
            self._kept[key] = rough
            self._rough.add(key)
            return
        self._write()

    def _write(self) -> None:
        kept = {key: value for key, value in self._kept.items() if key not in self._rough}
        draft = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(kept, indent=1) + "\n")
            draft.replace(self._file)
        except OSError as error:
            raise failed(self._file, "write a calibration", error) from error


@contextmanager
def one_thread() -> Iterator[float]:
    """Compute on one thread, whose time others cannot stretch; gives what all threads together gain, roughly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield 1 + GAIN * (threads - 1)
    finally:
        torch.set_num_threads(threads)


def _read(file: Path) -> dict[str, Any]:
    """What was kept; a file that cannot be read is measured anew."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
