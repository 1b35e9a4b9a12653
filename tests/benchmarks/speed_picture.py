"""The picture of `bench_speed`: seconds a round and peak memory of every contender, job by job."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Protocol

import matplotlib
from measure import RESULTS

matplotlib.use("Agg")
from matplotlib import pyplot

PICTURE = RESULTS.with_name("bench_speed.png")


class Shown(Protocol):
    """Figures of a contender that the picture shows."""

    seconds: list[float]
    peak_gb: float


def draw(results: Sequence[tuple[str, Mapping[str, Shown]]]) -> None:
    """Bars with their numbers, two panels a job, into `runs/bench_speed.png`."""
    figure, panels = pyplot.subplots(len(results), 2, figsize=(13, 0.8 + 1.9 * len(results)), squeeze=False)
    for (title, scores), (left, right) in zip(results, panels, strict=True):
        names = list(scores)[::-1]
        for panel, values, unit in (
            (left, [median(scores[name].seconds) for name in names], "s a round"),
            (right, [scores[name].peak_gb for name in names], "GB at the peak"),
        ):
            bars = panel.barh(names, values, color=["tab:blue" if name == names[-1] else "silver" for name in names])
            panel.bar_label(bars, fmt="%.3g", padding=3)
            panel.margins(x=0.15)
            panel.set_title(f"{title}: {unit}", loc="left", fontsize=10)
            panel.spines[["top", "right"]].set_visible(False)
        right.set_yticks([])
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=130)
    pyplot.close(figure)
