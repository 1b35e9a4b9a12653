"""Draw curves with their bands, told apart by colour, dashes and markers: also in grey and by the colour-blind."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrl_graph.comparison.align import Aligned
from genrl_graph.comparison.history import words
from genrl_graph.comparison.result import Comparison

COLOURS = ("#000000", "#E69F00", "#0072B2", "#CC79A7", "#009E73", "#56B4E9", "#D55E00")
"""The palette of Okabe and Ito (https://jfly.uni-koeln.de/color/), in an order of which neighbours differ in grey."""
DASHES = ("-", (0, (6, 2)), (0, (1, 1.5)), (0, (8, 2, 1, 2)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_CURVES, MOST_PANELS, MARKS = 10, 12, 8


def write_pictures(comparison: Comparison, stem: Path) -> list[Path]:
    """Write the curves as PNG and SVG, a panel per metric; settings or metrics beyond what fits are noted."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = comparison.metrics[:MOST_PANELS]
    labels = _drawn(comparison)
    if len(panels) < len(comparison.metrics):
        comparison.notes.append(
            f"the picture shows {len(panels)} of {len(comparison.metrics)} metrics; choose with --metric"
        )
    columns = min(len(panels), 2 if len(panels) < 7 else 3)
    rows, width = math.ceil(len(panels) / columns), 5.2 * columns + 0.6
    beside = max(1, int(width / (0.9 + 0.085 * max(map(len, labels)))))
    height = 3.4 * rows + 0.25 * math.ceil(len(labels) / beside) + 0.4
    with mpl.rc_context({"svg.hashsalt": "genrl-graph", "svg.fonttype": "none"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, aligned in zip(axes, panels, strict=False):
            _panel(axis, comparison, aligned, labels)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        ordered = [label for label in labels if label in handles]
        figure.legend(
            [handles[label] for label in ordered],
            ordered,
            loc="outside lower center",
            ncols=min(beside, len(ordered)),
            handlelength=4.5,
            frameon=False,
        )
        paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _drawn(comparison: Comparison) -> list[str]:
    """Return the labels of the settings to draw: all, or the first ones and the best by the first metric."""
    labels = [setting.label for setting in comparison.settings]
    if len(labels) <= MOST_CURVES:
        return labels
    first = comparison.metrics[0]
    ends = {label: float(comparison.bands[first.metric, label].mean[-1]) for label in first.values}
    best = sorted(ends, key=lambda label: -ends[label] if math.isfinite(ends[label]) else math.inf)[:MOST_CURVES]
    comparison.notes.append(
        f"the picture shows the {MOST_CURVES} of {len(labels)} settings with the highest {first.metric}"
    )
    return [label for label in labels if label in best]


def _panel(axis: Any, comparison: Comparison, aligned: Aligned, labels: Sequence[str]) -> None:
    for number, label in enumerate(labels):
        if label not in aligned.values:
            continue
        band, style = comparison.bands[aligned.metric, label], look(number)
        every = max(1, len(aligned.positions) // MARKS)
        offset = (number * every // max(len(labels), 1)) % every
        axis.fill_between(aligned.positions, band.low, band.high, color=style["color"], alpha=0.1, linewidth=0)
        edge = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 0.6, "alpha": 0.7}
        for end in (band.low, band.high):  # where bands overlap, their edges tell them apart
            axis.plot(aligned.positions, end, **edge)
        axis.plot(aligned.positions, band.mean, label=label, markevery=(offset, every), **style)
    smoothing = f" (mean of {aligned.window} rounds)" if aligned.window > 1 else ""
    axis.set_title(f"{aligned.metric}{smoothing}", fontsize=10, parse_math=False)
    axis.set_xlabel(words(comparison.unit))
    axis.grid(alpha=0.25)
    means = [comparison.bands[aligned.metric, label].mean for label in labels if label in aligned.values]
    _limit(axis, means)


def _limit(axis: Any, means: Sequence[Any]) -> None:
    """Show the curves with room around them; a band that is much wider than they are leaves the panel."""
    known = [float(value) for mean in means for value in mean if math.isfinite(value)]
    if known:
        low, high = min(known), max(known)
        room = 0.6 * (high - low) or 0.1 * (abs(high) or 1.0)
        bottom, top = axis.get_ylim()
        axis.set_ylim(max(bottom, low - room), min(top, high + room))


def look(number: int) -> dict[str, Any]:
    """Return a look that no other of the first 280 settings has."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 5,
        "linewidth": 1.8,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }
