"""The metrics of one run, as they grow: a curve for each, read line by line and forgotten."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genrl_graph.store.metrics_file import MetricsTail
from genrl_graph.view.curve import MOST_METRICS, Curve

EVAL = "eval/"
PEER = "peer/"
SHARE = "/gradient_share"
LINES_A_CALL = 400
"""Lines of a call of `read`, so that a long run is on the page before all of it is read."""
NODE_NUMBERS = (
    *("tokens", "rows", "reward", "zero_variance", "refused", "late", "failed_rows", "unjudged", "version", "kept"),
    *("loss", "kl", "return"),
)
"""Metrics of a node that the table of nodes shows."""


@dataclass(slots=True)
class RunMetrics:
    """The curves of a run whose peers may have a folder each; a round that is reported again counts once.

    `dropped` tells that the run has more metrics than are kept.
    """

    folders: Sequence[Path]
    curves: dict[str, Curve] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)  # by peer: the last round that it reported
    dropped: bool = False
    _tails: dict[Path, MetricsTail] = field(default_factory=dict)
    _evaluated: dict[str, int] = field(default_factory=dict)

    def read(self, limit: int = LINES_A_CALL) -> int:
        """Read at most `limit` new lines of each folder, and return how many there were; raises `StoreError`."""
        count = 0
        for folder in self.folders:
            lines = self._tails.setdefault(folder, MetricsTail(folder)).lines(limit)
            if lines is None:  # another run has taken the folder
                self._forget()
                return self.read(limit)
            for line in lines:
                self._take(line)
            count += len(lines)
        return count

    def of_node(self, node: str) -> dict[str, dict[str, float | None]]:
        """Return the numbers of a node by metric: of the last round, the mean, and the sum over rounds and peers."""
        named = {name: f"{node}/{name}" for name in NODE_NUMBERS} | {"seconds": f"time/{node}"}
        curves = {name: self.curves[full] for name, full in named.items() if full in self.curves}
        return {name: {"last": c.last, "mean": c.mean, "total": c.total} for name, c in curves.items() if c.count}

    def shares(self) -> dict[str, dict[str, float | None]]:
        """Return the share of the gradient by `<update>/<role>`: of the last round, and the mean over rounds."""
        named = {name.removesuffix(SHARE): curve for name, curve in self.curves.items() if name.endswith(SHARE)}
        return {name: {"last": curve.last, "mean": curve.mean} for name, curve in named.items() if curve.count}

    def accounts(self) -> dict[str, dict[str, float]]:
        """Return what each other peer cost in all rounds, by peer and unit."""
        sums: dict[str, dict[str, float]] = {}
        for name, curve in self.curves.items():
            peer, _, unit = name.removeprefix(PEER).rpartition("/")
            if name.startswith(PEER) and peer:
                sums.setdefault(peer, {})[unit] = curve.total
        return sums

    def _take(self, line: Mapping[str, float | None]) -> None:
        round, peer = int(line["round"] or 0), str(line["peer"])
        evaluation = all(name.startswith(EVAL) for name in line if name not in ("round", "peer"))
        seen = self._evaluated if evaluation else self.rounds
        if round <= seen.get(peer, -1):
            return
        seen[peer] = round
        for name, value in _numbers(line):
            if (curve := self.curves.get(name)) is None:
                if len(self.curves) >= MOST_METRICS:
                    self.dropped = True
                    continue
                curve = self.curves[name] = Curve()
            curve.add(round, value)

    def _forget(self) -> None:
        for known in (self.curves, self.rounds, self._tails, self._evaluated):
            known.clear()


def _numbers(line: Mapping[str, float | None]) -> Iterator[tuple[str, float | None]]:
    return ((name, value) for name, value in line.items() if name not in ("round", "peer"))
