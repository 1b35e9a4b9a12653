"""Calibrate an estimate: measure the machine and a model's layers once, and store the results in the cache."""

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
"""Share of the processors above which what other programs use makes a measurement rough."""
ROUGH = "rough"
"""The entry of a calibration that lists the rough measurements by key."""
LOOK_S = 0.5
"""Seconds over which their use is observed before a measurement."""
GAIN = 0.6
"""The speedup that each further thread adds."""
STAT = Path("/proc/stat")


def machine_key() -> str:
    """Return the key of this machine's calibration: a digest of processor, cores, threads, torch version and device."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line for line in lines if line.startswith(("model name", "CPU part"))][:1]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    parts = (*names, platform.node(), str(os.cpu_count()), str(torch.get_num_threads()), torch.__version__, device)
    return digest((CALIBRATION, *parts), size=6)


def model_key(sized: PolicySize) -> str:
    """Return the key of a model's speeds: a digest of its configuration, precision and device."""
    config = {key: value for key, value in sorted(sized.config.to_dict().items()) if not key.startswith("_")}
    for name in ("transformers_version", "dtype", "torch_dtype"):
        config.pop(name, None)
    shape = json.dumps(config, sort_keys=True, default=str)
    precision = str(sized.model.bfloat16) if sized.model.weight_bytes == 4 else "bfloat16 weights"
    return digest((shape, precision, str(sized.device)), size=8)


def calibration_file() -> Path:
    """Return the cache file with the calibration of this machine."""
    return cache_root() / "calibrations" / f"{machine_key()}.json"


class BusyOthers:
    """Measures the processor use of other programs, where there is a /proc."""

    def __init__(self) -> None:
        self._start = self._now()

    def share(self) -> float:
        """Return their share of all processors since this was created; 0 where it is unknown."""
        others, total = (end - start for start, end in zip(self._start, self._now(), strict=True))
        return max(others, 0.0) / total if total > 0 else 0.0

    def _now(self) -> tuple[float, float]:
        """Return processor seconds since boot: those of other programs, and all, idle ones included."""
        if not STAT.exists():
            return 0.0, 0.0
        ticks = [int(value) for value in STAT.read_text().split("\n", 1)[0].split()[1:9]]
        second = float(os.sysconf("SC_CLK_TCK"))
        idle = ticks[3] + ticks[4]
        return (sum(ticks) - idle) / second - time.process_time(), sum(ticks) / second


class Calibration:
    """The measurements of this machine; missing ones are made on first use and announced through `tell`.

    `afresh` ignores stored measurements. Those made while other programs were busy are stored and called rough.
    """

    def __init__(self, *, afresh: bool = False, tell: Callable[[str], None] = lambda text: None) -> None:
        self._file, self._tell = calibration_file(), tell
        self._values: dict[str, Any] = {} if afresh else _read(self._file)
        rough = self._values.get(ROUGH)
        self._rough: set[str] = set(map(str, rough)) if isinstance(rough, list) else set()
        self._used: set[str] = set()

    @property
    def is_rough(self) -> bool:
        """Return whether a measurement that was asked for was made while other programs were busy."""
        return bool(self._rough & self._used)

    def machine(self) -> Machine:
        """Return the rates of this machine, which do not depend on a model."""
        if "machine" not in self._values:
            self._tell("measuring this machine (a few seconds)")
            self._measure("machine", lambda clock: asdict(measure_machine(clock)))
        self._used.add("machine")
        return Machine(**self._values["machine"])

    def speeds(self, sized: PolicySize, *, name: str) -> Speeds:
        """Return the speeds of a model on this machine; `name` names the model in messages."""
        key = model_key(sized)
        if key not in self._values:
            self._tell(f"measuring layers of {name} with random weights (about 20 s, once)")
            self._measure(key, lambda clock: asdict(measure_speeds(sized, clock)))
        self._used.add(key)
        return Speeds(**self._values[key])

    def _measure(self, key: str, measure: Callable[[Clock], dict[str, float]]) -> None:
        """Measure and store; where other programs are busy, measure roughly and note that it is rough."""
        busy = BusyOthers()
        time.sleep(LOOK_S)
        if busy.share() <= BUSY:
            busy = BusyOthers()
            self._values[key] = measure(time.perf_counter)
        if (share := busy.share()) > BUSY:
            how = "measured roughly, by one thread's time; --calibrate measures again"
            self._tell(f"other programs take {share:.0%} of the processors: {how}")
            with one_thread() as speedup:
                rough = measure(lambda: time.process_time() / speedup)
            self._values[key] = rough
            self._rough.add(key)
        self._write()

    def _write(self) -> None:
        values = self._values | ({ROUGH: sorted(self._rough)} if self._rough else {})
        draft = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(values, indent=1) + "\n")
            draft.replace(self._file)
        except OSError as error:
            raise failed(self._file, "write a calibration", error) from error


@contextmanager
def one_thread() -> Iterator[float]:
    """Compute on one thread, whose processor time does not depend on other programs.

    Yields the estimated speedup of all threads over one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield 1 + GAIN * (threads - 1)
    finally:
        torch.set_num_threads(threads)


def _read(file: Path) -> dict[str, Any]:
    """Return the stored measurements; none where the file cannot be read, so that all are made again."""
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
