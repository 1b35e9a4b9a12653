"""What a run measures: one line a round and peer in metrics.jsonl, the same names in TensorBoard.

Names are `<node>/<metric>`; what depends on the machine is under `time/` (seconds) and `speed/` (tokens a second).
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from genrl_graph.runners.round import Done


class Tracker(Protocol):
    """Takes the metrics of one peer's round."""

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """metrics.jsonl: one JSON object a round and peer."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """Append one line; what is no number stands as null, for JSON has no NaN."""
        numbers = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"round": round, "peer": peer, **numbers}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Event files, a folder a peer."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._make: Callable[[str], Any] = lambda peer: SummaryWriter(str(folder / peer))
        self._writers: dict[str, Any] = {}

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """One scalar a metric, at step `round`."""
        writer = self._writers.get(peer) or self._writers.setdefault(peer, self._make(peer))
        for name, value in metrics.items():
            writer.add_scalar(name, value, round)

    def close(self) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()


class RoundMetrics:
    """Collects the steps of a round, per peer."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = list(trackers)
        self._peers: dict[str, dict[str, float]] = {}

    def take(self, done: Done) -> None:
        """Add what one step of one peer reported."""
        metrics = self._peers.setdefault(done.peer, {})
        name = done.step.node
        metrics.update({f"{name}/{metric}": value for metric, value in done.metrics.items()})
        metrics[f"time/{name}"] = metrics.get(f"time/{name}", 0.0) + done.seconds
        if "tokens" in done.metrics:
            metrics[f"speed/{name}"] = done.metrics["tokens"] / max(done.seconds, 1e-9)

    def end(self, round: int, seconds: float) -> dict[str, dict[str, float]]:
        """Give the round to the trackers; returns its metrics by peer."""
        peers, self._peers = self._peers, {}
        for peer, metrics in peers.items():
            metrics["time/round"] = seconds
            for tracker in self._trackers:
                tracker.write(round, peer, metrics)
        return peers

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()


def mean(peers: Mapping[str, Mapping[str, float]], name: str) -> float | None:
    """The mean of a metric over the peers that reported it."""
    values = [metrics[name] for metrics in peers.values() if name in metrics]
    return sum(values) / len(values) if values else None


def total(peers: Mapping[str, Mapping[str, float]], name: str) -> float:
    """The sum of a metric over the peers."""
    return sum(metrics.get(name, 0.0) for metrics in peers.values())
