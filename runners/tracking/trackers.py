"""Where the metrics of a run go: metrics.jsonl always, and what `run.trackers` names.

All of them get the same names (`genrl_graph.runners.tracking.metric_names`) and the round as the step. Peers stay
apart:

| tracker | where | a peer is |
| --- | --- | --- |
| `jsonl` | `metrics.jsonl` | the field `peer` of a line |
| `tensorboard` | `events/` | a folder, which TensorBoard shows as a run |
| `wandb` | `wandb/`, and its server where somebody is logged in | a run `<run>/<peer>` in the group `<run>` |
| `mlflow` | `mlruns/`, or `MLFLOW_TRACKING_URI` | a run `<run>/<peer>` with the tags `genrl_graph.run` and `.peer` |
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from genrl_graph.dag.run_config import KNOWN_TRACKERS
from genrl_graph.errors import ParamError
from genrl_graph.messages import did_you_mean
from genrl_graph.runners.tracking.guard import LIMIT_S, GuardedTracker
from genrl_graph.runners.tracking.mlflow_tracker import MlflowTracker
from genrl_graph.runners.tracking.run_card import RunCard
from genrl_graph.runners.tracking.wandb_tracker import WandbTracker
from genrl_graph.store.durable import failed

EXTRA = ("wandb", "mlflow")
"""Trackers whose package, of the same name, is installed on demand."""


class Tracker(Protocol):
    """Takes the metrics of one peer's round."""

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """Take numbers of a peer at a round; a round may come twice: its own numbers and those of an evaluation."""

    def close(self) -> None:
        """Put away or send what is still held; nothing is written after it."""


class JsonLines:
    """metrics.jsonl: one JSON object a round and peer, and one an evaluation and peer.

    It is part of the run folder: where the disk refuses, `StoreError` is raised and the run ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
            if torn := len(path.read_bytes().rpartition(b"\n")[2]):  # what a full disk or a crash left of a line
                self._file.truncate(path.stat().st_size - torn)
        except OSError as error:
            raise failed(path, "open", error) from error

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """Append one line; what is no number stands as null, for JSON has no NaN."""
        numbers = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        left = memoryview(json.dumps({"round": round, "peer": peer, **numbers}).encode() + b"\n")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise failed(self._path, "write", error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Event files, a folder a peer; what is written can be read at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """One event at step `round` with a scalar a metric."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        if peer not in self._writers:
            self._writers[peer] = self._open(peer)
        self._writers[peer].write_event(Event(wall_time=time.time(), step=round, summary=Summary(value=scalars)))
        self._writers[peer].flush()

    def close(self) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()

    def _open(self, peer: str) -> Any:
        # tensorboardX's SummaryWriter writes on a thread that dies of a full disk unheard, and then `add_scalar` hangs
        from tensorboardX.event_file_writer import EventsWriter

        folder = self._folder / peer
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.iterdir()))  # a file of the same second would be overwritten
        return EventsWriter(str(folder / "events"), f".{number}")


def make_trackers(
    names: Sequence[str],
    *,
    folder: Path,
    run_name: str,
    project: str,
    peers: Sequence[str],
    config: Mapping[str, Any],
    tell: Callable[[str], None],
) -> list[Tracker]:
    """The trackers of a run, metrics.jsonl first; all others are guarded, and what befalls them is told in a line.

    Raises `ParamError` for a name that is not known and for a package that is missing, `StoreError` where
    metrics.jsonl cannot be opened.
    """
    require_trackers(names)
    card = RunCard(folder, run_name, project, tuple(peers), dict(config))
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder / "events"),
        "wandb": lambda: WandbTracker(card, tell=tell),
        "mlflow": lambda: MlflowTracker(card),
    }
    limit_s = LIMIT_S + len(card.peers)
    chosen = [name for name in dict.fromkeys(names) if name != "jsonl"]
    return [
        JsonLines(folder / "metrics.jsonl"),
        *(GuardedTracker(name, makers[name], tell=tell, limit_s=limit_s) for name in chosen),
    ]


def require_trackers(names: Sequence[str]) -> None:
    """Raise `ParamError` for a name that is not known, or whose package is missing; imports nothing."""
    for name in names:
        if name not in KNOWN_TRACKERS:
            hint = f"{did_you_mean(name, KNOWN_TRACKERS)}; there are {', '.join(KNOWN_TRACKERS)}"
            raise ParamError(f"run.trackers: no tracker named {name!r}{hint}")
        if name in EXTRA:
            found = find_spec(name)
            if found is None or found.origin is None:  # without an origin it is a mere folder, as wandb leaves behind
                raise ParamError(f"run.trackers: {name} is not installed; pip install 'genrl-graph[trackers]'")
