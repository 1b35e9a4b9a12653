"""Draw curves in a terminal, in Braille dots, and as a PNG."""

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrl_graph.errors import ParamError
from genrl_graph.store.durable import failed, replace_file

Curve = tuple[Sequence[int], Sequence[float]]
"""Rounds and values; NaN marks a gap."""
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a Braille cell, 4 rows of 2
BLANK = 0x2800


def smoothed(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Return the running mean over `window` values, of those that are finite; NaN where none is."""
    numbers = np.asarray(values, dtype=np.float64)
    known = np.isfinite(numbers)
    sums, counts = np.cumsum(np.where(known, numbers, 0.0)), np.cumsum(known)
    sums[window:], counts[window:] = sums[window:] - sums[:-window], counts[window:] - counts[:-window]
    means = np.full(len(numbers), np.nan)
    means[counts > 0] = sums[counts > 0] / counts[counts > 0]
    return means


def braille(curve: Curve, *, width: int, height: int = 5) -> list[str]:
    """Draw a curve in `height` lines of at most `width` characters, labelled with its highest and lowest value."""
    rounds, values = np.asarray(curve[0]), np.asarray(curve[1], dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        return []
    rounds, values = rounds[known], values[known]
    low, high = float(values.min()), float(values.max())
    labels = [f"{high:.3f}", *[""] * (height - 2), f"{low:.3f}"]
    margin = max(map(len, labels))
    columns, dots = max(width - margin - 2, 8) * 2, height * 4
    span = max(int(rounds[-1] - rounds[0]), 1)
    at = np.minimum(np.arange(columns), span * 2) if span * 2 < columns else np.arange(columns)
    at = np.unique(at)
    drawn = np.interp(rounds[0] + at * span / max(at[-1], 1), rounds, values)
    level = np.rint((drawn - low) / (high - low) * (dots - 1)).astype(int) if high > low else np.zeros(len(at), int)
    cells = np.full((height, columns // 2), BLANK)
    for column, this, before in zip(at.tolist(), level.tolist(), [level[0], *level[:-1].tolist()], strict=True):
        for dot in range(min(this, before + (this > before)), max(this, before - (this < before)) + 1):
            row = dots - 1 - dot
            cells[row // 4, column // 2] |= DOTS[row % 4, column % 2]
    lines = ["".join(map(chr, row)).rstrip(chr(BLANK)) for row in cells]
    return [f"{label:>{margin}} ┤{text}" for label, text in zip(labels, lines, strict=True)]


def default_window(rounds: int) -> int:
    """Return the number of rounds over which to smooth a curve: a twentieth of them, at least 1."""
    return max(1, math.ceil(rounds / 20))


def write_png(path: Path, curves: Mapping[str, Curve], *, title: str, window: int) -> None:
    """Plot each curve on an axis of its own, pale, with its running mean on top.

    Raises `ParamError` where matplotlib is not installed, `StoreError` where the file cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ParamError("--png: matplotlib is not installed; pip install 'genrl-graph[plots]'")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 2.2 * max(len(curves), 1)), layout="constrained")
    figure.suptitle(title, parse_math=False)
    axes = figure.subplots(max(len(curves), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, (rounds, values)) in zip(axes, curves.items(), strict=False):
        axis.plot(rounds, values, alpha=0.3, marker="o" if len(rounds) == 1 else "")
        axis.plot(rounds, smoothed(values, window), color="C0")
        axis.set_ylabel(name, parse_math=False)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("round")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    try:
        replace_file(path, drawn.getvalue())
    except OSError as error:
        raise failed(path, "write the picture", error) from error
