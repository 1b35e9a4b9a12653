"""The metrics of one run, as they grow: a curve for each, read line by line and forgotten."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genrl_graph.store.metrics_file import MetricsTail
from genrl_graph.view.curve import Curves

EVAL = "eval/"
PEER = "peer/"
SHARE = "/gradient_share"
TIME = "time/"
SECONDS = "seconds"
LINES_AT_ONCE = 16
READ_S = 0.03
"""Seconds of a call of `read`, so that a page answers while a long run is read."""
NODE_NUMBERS = (
    *("tokens", "rows", "reward", "zero_variance", "refused", "late", "failed_rows", "unjudged", "version", "kept"),
    *("loss", "kl", "return"),
)
"""Metrics of a node that the table of nodes shows."""


@dataclass(slots=True)
class RunMetrics:
    """The curves of a run whose peers may have a folder each; a round that is reported again counts once."""

    folders: Sequence[Path]
    curves: Curves = field(default_factory=Curves)
    rounds: dict[str, int] = field(default_factory=dict)  # by peer: the last round that it reported
    _tails: dict[Path, MetricsTail] = field(default_factory=dict)
    _evaluated: dict[str, int] = field(default_factory=dict)
    _of_nodes: dict[str, dict[str, str]] = field(default_factory=dict)  # metrics by what they tell of, and number
    _shares: dict[str, str] = field(default_factory=dict)
    _costs: dict[str, dict[str, str]] = field(default_factory=dict)

    def read(self) -> tuple[int, bool]:
        """Read new lines for about `READ_S`; returns how many there were, and whether there are more.

        Raises `StoreError`.
        """
        count, until = 0, time.monotonic() + READ_S
        for folder in self.folders:
            tail, full = self._tails.setdefault(folder, MetricsTail(folder)), True
            while full:
                lines = tail.lines(LINES_AT_ONCE)
                if lines is None:  # another run has taken the folder
                    self._forget()
                    return self.read()
                for line in lines:
                    self._take(line)
                count, full = count + len(lines), len(lines) == LINES_AT_ONCE
                if full and time.monotonic() > until:
                    return count, True
        return count, False

    def of_node(self, node: str) -> dict[str, dict[str, float | None]]:
        """Return the numbers of a node by metric: of the last round, the mean, and the sum over rounds and peers."""
        metrics = self._of_nodes.get(node, {})
        curves = ((name, self.curves.get(metrics[name])) for name in (*NODE_NUMBERS, SECONDS) if name in metrics)
        return {name: {"last": c.last, "mean": c.mean, "total": c.total} for name, c in curves if c is not None}

    def shares(self) -> dict[str, dict[str, float | None]]:
        """Return the share of the gradient by `<update>/<role>`: of the last round, and the mean over rounds."""
        curves = ((name, self.curves.get(metric)) for name, metric in self._shares.items())
        return {name: {"last": curve.last, "mean": curve.mean} for name, curve in curves if curve is not None}

    def accounts(self) -> dict[str, dict[str, float | None]]:
        """Return what each other peer cost in all rounds, by peer and unit."""
        sums: dict[str, dict[str, float | None]] = {}
        for peer, units in self._costs.items():
            for unit, metric in units.items():
                if (curve := self.curves.get(metric)) is not None:
                    sums.setdefault(peer, {})[unit] = curve.total
        return sums

    def _take(self, line: Mapping[str, float | None]) -> None:
        round, peer = int(line["round"] or 0), str(line["peer"])
        numbers = {name: value for name, value in line.items() if name not in ("round", "peer")}
        evaluation = all(name.startswith(EVAL) for name in numbers)
        seen = self._evaluated if evaluation else self.rounds
        if round <= seen.get(peer, -1):
            return
        seen[peer] = round
        for name in self.curves.add(round, numbers):
            self._note(name)

    def _note(self, name: str) -> None:
        """Note a new metric by the node, role or peer that it tells of."""
        of, _, number = name.rpartition("/")
        if name.startswith(TIME):
            self._of_nodes.setdefault(name.removeprefix(TIME), {})[SECONDS] = name
        elif number in NODE_NUMBERS:
            self._of_nodes.setdefault(of, {})[number] = name
        if name.endswith(SHARE):
            self._shares[name.removesuffix(SHARE)] = name
        if of.startswith(PEER) and of != PEER:
            self._costs.setdefault(of.removeprefix(PEER), {})[number] = name

    def _forget(self) -> None:
        self.curves.clear()
        known = (self.rounds, self._tails, self._evaluated, self._of_nodes, self._shares, self._costs)
        for values in known:
            values.clear()
