"""Measuring and reporting for benchmarks: interleaved calls, medians of ratios, one table each, all in one JSON file.

Machines are noisy and differ, so what counts are ratios of calls that took turns; seconds stand beside them.
"""

import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "runs" / "bench.json"
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


class Clock:
    """Calls a function and adds up the seconds that this takes, and those of the processor in all threads."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.seconds, self.cpu = call, 0.0, 0.0

    def __call__(self, *args: object) -> Any:
        started, cpu = time.perf_counter(), time.process_time()
        try:
            return self.call(*args)
        finally:
            self.seconds += time.perf_counter() - started
            self.cpu += time.process_time() - cpu


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: seconds, one a repetition, and, where `base` is given, their ratio to those of another row.

    `at_most_s` and `at_most_ratio` are what is wanted of the medians; a report says whether it is so.
    """

    what: str
    times: Sequence[float]
    base: "Row | None" = None
    at_most_s: float | None = None
    at_most_ratio: float | None = None

    @property
    def seconds(self) -> float:
        """The median time."""
        return median(self.times)

    @property
    def ratios(self) -> list[float]:
        """The ratio of each repetition; none without a base, or where the base took no time."""
        if self.base is None or not all(self.base.times):
            return []
        return [mine / other for mine, other in zip(self.times, self.base.times, strict=True)]

    @property
    def met(self) -> bool | None:
        """Return whether the median meets its limit; None without a limit."""
        if self.at_most_ratio is not None:
            return bool(self.ratios) and median(self.ratios) <= self.at_most_ratio
        return None if self.at_most_s is None else self.seconds <= self.at_most_s

    def wanted(self) -> str:
        """Return the limit as text, and whether the row meets it; empty without a limit."""
        if self.met is None:
            return ""
        limit = f"ratio <= {self.at_most_ratio:g}" if self.at_most_ratio is not None else f"<= {self.at_most_s:g} s"
        return f"{limit}: {'yes' if self.met else 'NO'}"


def interleaved(calls: Mapping[str, Callable[[], object]], *, times: int) -> dict[str, list[float]]:
    """The seconds of each call, which take turns `times` times, every other time in the reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    for number in range(times):
        for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
            clock = Clock(calls[name])
            clock()
            seconds[name].append(clock.seconds)
    return seconds


def report(name: str, title: str, rows: Sequence[Row]) -> None:
    """Print the table of one benchmark and put its figures into `runs/bench.json`, beside those of the others."""
    caption = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", title_style="bold")
    for header in ("what", "median", "ratio (quartiles)", "to", "wanted"):
        table.add_column(header, justify="right" if header in ("median", "ratio (quartiles)") else "left")
    for row in rows:
        ratios = row.ratios
        ratio = f"{median(ratios):.3g} ({quartiles(ratios)})" if ratios else ""
        table.add_row(row.what, _time(row.seconds), ratio, row.base.what if row.base and ratios else "", row.wanted())
    Console(width=150, highlight=False).print("", table)
    keep(name, {"title": title, "rows": [_figures(row) for row in rows]})


def figures(name: str, title: str, values: Mapping[str, tuple[float, float | None]]) -> None:
    """Print figures that are no times, with the most that is wanted of each, and put them into `runs/bench.json`."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for header in ("what", "value", "wanted"):
        table.add_column(header, justify="right" if header == "value" else "left")
    for what, (value, most) in values.items():
        wanted = "" if most is None else f"<= {most:g}: {'yes' if value <= most else 'NO'}"
        table.add_row(what, f"{value:.4g}", wanted)
    Console(width=150, highlight=False).print("", table)
    rows = [
        {"what": what, "value": value} | ({} if most is None else {"at_most": most, "met": value <= most})
        for what, (value, most) in values.items()
    ]
    keep(name, {"title": title, "rows": rows})


def started(script: str, *arguments: str, **env: str) -> "subprocess.Popen[str]":
    """A process with one thread."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), **env}
    command = [sys.executable, str(HERE / script), *arguments]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def quartiles(values: Sequence[float]) -> str:
    """The first and the third quartile as a table shows them."""
    if len(values) < 2:
        return "one only"
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{low:.3g}, {high:.3g}"


def _time(seconds: float) -> str:
    scale, unit = next((known for known in UNITS if seconds >= known[0]), UNITS[-1])
    return f"{seconds / scale:.3g} {unit}" if seconds < 1000 else f"{seconds:.0f} s"


def _figures(row: Row) -> dict[str, object]:
    figures: dict[str, object] = {"what": row.what, "median_s": row.seconds, "times_s": list(row.times)}
    if row.base is not None and row.ratios:
        figures |= {"to": row.base.what, "median_ratio": median(row.ratios), "ratios": row.ratios}
    if row.met is not None:
        figures |= {"at_most_s": row.at_most_s, "at_most_ratio": row.at_most_ratio, "met": row.met}
    return figures


def keep(name: str, figures: Mapping[str, object]) -> None:
    """Put the figures of one benchmark, and what it ran on, into `runs/bench.json`, beside those of the others."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    machine = {
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "processor": platform.machine(),
        "python": platform.python_version(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**known, name: {**figures, "machine": machine}}, indent=1) + "\n")
