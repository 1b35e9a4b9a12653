"""Find how many cells fit side by side, and with how many threads, by the estimate of what each needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from genrl_graph.dag.graph import Graph
from genrl_graph.errors import GenrlGraphError
from genrl_graph.messages import counted
from genrl_graph.nodes.policy.compute.activation_checkpointing import GB
from genrl_graph.runners.estimate.calibrate import Calibration
from genrl_graph.runners.estimate.costs import Range
from genrl_graph.runners.estimate.estimate import estimate
from genrl_graph.runners.estimate.forecast import Forecast
from genrl_graph.runners.loop.threads import processors, set_threads
from genrl_graph.runners.opening import replace_run
from genrl_graph.runners.sweep.cells import Setting
from genrl_graph.runners.tracking.memory import free_device_memory, free_memory

SHARE = 0.9
"""The share of the free memory that cells may take."""
MOST_ESTIMATED = 6


@dataclass(frozen=True, slots=True)
class Capacity:
    """The number of cells that are played side by side, the threads of each, and why not more.

    `unknown` says why a setting could not be estimated.
    """

    jobs: int
    threads: int
    reason: str
    forecasts: Mapping[str, Forecast]
    unknown: str = ""

    def total_seconds(self, cells: int) -> Range | None:
        """Return the seconds of so many cells, None where those of a run are unknown."""
        known = [forecast.run_seconds for forecast in self.forecasts.values()]
        runs = [seconds for seconds in known if seconds is not None]
        if self.unknown or not runs or len(runs) < len(known):
            return None
        each = Range.total(runs).times(1 / len(runs))
        return each.times(math.ceil(cells / self.jobs)).narrowed()

    def total_disk(self, cells: int) -> Range | None:
        """Return the bytes that so many cells take, None where those of a run are unknown."""
        known = [forecast.disk for forecast in self.forecasts.values()]
        disks = [disk for disk in known if disk is not None]
        if self.unknown or not disks or len(disks) < len(known):
            return None
        return Range.total(disks).times(cells / len(disks)).narrowed()


def capacity(
    settings: Sequence[Setting], cells: int, *, jobs: int | None, estimated: bool, tell: Callable[[str], None]
) -> Capacity:
    """Return how many cells to play side by side: as many as processors and free memory allow, or `jobs`.

    Every setting is estimated, or some that are spread evenly. With `jobs` this is left out unless it is asked for.
    """
    cores = processors()
    most = max(1, min(cells, cores if jobs is None else jobs))
    forecasts, unknown = _forecasts(settings, share(cores, most), tell) if jobs is None or estimated else ({}, "")
    if jobs is not None:
        return Capacity(most, share(cores, most), "as asked for", forecasts, unknown)
    if unknown:
        return Capacity(1, share(cores, 1), "what a run needs is unknown; give --jobs", forecasts, unknown)
    fitting, reason = _fitting(forecasts)
    chosen = max(1, min(most, fitting))
    why = reason if fitting < most else counted(cores, "processor") if most == cores else counted(cells, "cell")
    return Capacity(chosen, share(cores, chosen), why, forecasts)


def _forecasts(
    settings: Sequence[Setting], threads: int, tell: Callable[[str], None]
) -> tuple[dict[str, Forecast], str]:
    """Estimate settings as they would run with so many threads; machine and models are measured once for all.

    Returns the forecasts, and why a setting has none: nodes may need more than an estimate has, as their own policy.
    """
    set_threads(threads)
    calibration = Calibration(tell=tell)
    forecasts = {}
    for setting in _spread(settings):
        tell(f"estimating {setting.label}")
        try:
            forecasts[setting.label] = estimate(_with_threads(setting, threads), calibration=calibration, tell=tell)
        except GenrlGraphError as error:
            return forecasts, f"{setting.label}: {str(error).splitlines()[0]}"
    return forecasts, ""


def share(cores: int, jobs: int) -> int:
    """Return the threads of each of so many cells, at least one."""
    return max(1, cores // jobs)


def _fitting(forecasts: Mapping[str, Forecast]) -> tuple[int, str]:
    """Return how many of the largest cells fit into the free memory, and how that was found."""
    needs = [forecast.memory for forecast in forecasts.values()]
    known = [need.high for need in needs if need is not None]
    if len(known) < len(needs):
        return 1, "the memory of a run is unknown; give --jobs"
    devices = {forecast.device for forecast in forecasts.values()} - {"cpu"}
    free, where = (free_device_memory(), "of the device") if devices else (free_memory(), "of memory")
    if free is None:
        return 2**31, ""
    return int(
        SHARE * free / max(known)
    ), f"a run takes up to {max(known) / GB:.1f} GB, and {free / GB:.1f} GB {where} are free"


def _spread(settings: Sequence[Setting]) -> list[Setting]:
    count = min(len(settings), MOST_ESTIMATED)
    return [settings[round(at * (len(settings) - 1) / max(count - 1, 1))] for at in range(count)]


def _with_threads(setting: Setting, threads: int) -> Graph:
    run = setting.graph.run
    return replace_run(setting.graph, run.model_copy(update={"threads": run.threads or threads}))
