"""Threads and precision of this process: set their number, lower it while others use the processors, describe both."""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrl_graph.contract.policy import Policy
from genrl_graph.runners.loop.peers import Peer

QUOTA = Path("/sys/fs/cgroup/cpu.max")
WINDOW_S = 10.0
WINDOWS = 2
"""Seconds between two looks at how long threads waited, and looks in a row after which their number changes."""
THREADS = "threads"
"""Fact of a step that torch computed with another number of threads than the run began with."""


def set_threads(threads: int | None) -> bool:
    """Set the number of CPU threads of torch; the default is this process's share of the processors.

    Returns whether the user fixed it, by `threads` or OMP_NUM_THREADS.

    With N processes per node (`LOCAL_WORLD_SIZE`) the share is 1/N; one of all processors is left to torch. Where
    `OMP_NUM_THREADS` is set, other libraries follow it, and so does torch without `threads`.
    """
    fixed = threads is not None or "OMP_NUM_THREADS" in os.environ
    if not fixed:
        share = max(1, processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        threads = share if share < (os.cpu_count() or 1) else None
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        import torch

        torch.set_num_threads(threads)
    return fixed


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


@dataclass(frozen=True, slots=True)
class ProcessorTimes:
    """Seconds that the threads of this process computed and waited for a processor, and that processors were idle."""

    computed: float
    waited: float
    idle: float

    def since(self, before: "ProcessorTimes") -> "ProcessorTimes":
        """Return what came after `before`; threads that ended in between take their waiting with them."""
        waited = max(0.0, self.waited - before.waited)
        return ProcessorTimes(self.computed - before.computed, waited, self.idle - before.idle)

    @property
    def share(self) -> float:
        """The share of the waiting in what the threads had to do."""
        return self.waited / max(self.computed + self.waited, 1e-9)


def processor_times() -> ProcessorTimes | None:
    """Return the times so far, by Linux's /proc (proc(5), sched-stats); None where there is none."""
    try:
        waited = sum(int(_read(task / "schedstat").split()[1] or 0) for task in Path("/proc/self/task").iterdir())
        idle = int(Path("/proc/stat").read_text().split(maxsplit=5)[4])
    except (OSError, ValueError, IndexError):
        return None
    return ProcessorTimes(time.process_time(), waited / 1e9, idle / os.sysconf("SC_CLK_TCK"))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
        return "0 0 0"


class Threads:
    """The CPU threads of torch in a run: fewer of them while other processes keep them waiting for a processor.

    Threads of one operation wait for each other, so two threads on two processors of which another process uses one
    may take ten times as long as one. Where the user `fixed` their number, the run only says so. A step with another
    number than the run began with has it as a fact, since results depend on it bit by bit, and a resumed run computes
    the step again with it.
    """

    def __init__(
        self, *, fixed: bool, read: Callable[[], ProcessorTimes | None] = processor_times, every_s: float = WINDOW_S
    ) -> None:
        self._fixed, self._read, self._every_s = fixed, read, every_s
        self._begun: int | None = None  # None: the number never changed
        self._before: ProcessorTimes | None = None
        self._looked = -math.inf
        self._waits, self._idles, self._patience, self._told = 0, 0, WINDOWS, False

    def fact(self) -> int | None:
        """Return the number of threads, None where it is the one that the run began with."""
        return None if self._begun in (None, _count()) else _count()

    def follow(self, facts: Mapping[str, Any]) -> None:
        """Compute with as many threads as a recorded step."""
        if self._begun is not None or THREADS in facts:
            self._set(facts.get(THREADS, self._begun))

    def look(self) -> str | None:
        """Change the number of threads where it is time to; return the line that says so, None for no news."""
        seconds = time.monotonic() - self._looked
        if seconds < self._every_s or "torch" not in sys.modules:
            return None
        self._looked = time.monotonic()
        before, self._before = self._before, self._read()
        if before is None or self._before is None:
            return None
        return self._judge(self._before.since(before), seconds)

    def _judge(self, passed: ProcessorTimes, seconds: float) -> str | None:
        count = _count()
        missing = (self._begun or count) - count
        busy = passed.computed + passed.waited > seconds / 2
        waits = (
            busy and count > 1 and passed.share > max(0.05, 0.5 / (count + 1))
        )  # one other process has 1 / (count + 1)
        idles = missing > 0 and passed.idle > (missing - 0.25) * seconds
        self._waits, self._idles = (self._waits + 1) * waits, (self._idles + 1) * idles
        if self._waits >= WINDOWS:
            return self._lower(count, passed.share)
        if self._idles >= self._patience:
            return self._restore(count + missing)
        return None

    def _lower(self, count: int, share: float) -> str | None:
        """Leave a processor to each other process; the share of the waiting says how many there are."""
        self._waits = 0
        others = math.ceil(share * count / max(1 - share, 1e-9) - 0.25)
        fewer = max(1, count - max(1, others))
        why = f"torch's {count} threads waited {share:.0%} of their time for processors that other processes use"
        if self._fixed:
            told, self._told = self._told, True
            return None if told else f"{why}; run.threads: {fewer} may be faster"
        self._set(fewer)
        return f"{why}; going on with {fewer} (run.threads: {count} keeps them)"

    def _restore(self, count: int) -> str:
        """Take the threads of the beginning again; the next time it takes twice as long."""
        self._idles, self._patience = 0, 2 * self._patience
        self._set(count)
        return f"processors are idle again; going on with {count} threads of torch"

    def _set(self, count: int) -> None:
        import torch

        self._begun = self._begun or torch.get_num_threads()
        torch.set_num_threads(count)


def _count() -> int:
    """Return the number of torch's threads, 1 where it is not loaded."""
    return int(sys.modules["torch"].get_num_threads()) if "torch" in sys.modules else 1
