"""Trackers: every run writes metrics.jsonl, and the trackers that `run.trackers` names.

All get the same names (`genrl_graph.runners.tracking.metric_names`) and the round as the step. Each separates the
peers:

| tracker | where | a peer is |
| --- | --- | --- |
| `jsonl` | `metrics.jsonl` | the field `peer` of a line |
| `tensorboard` | `events/` | a folder, which TensorBoard shows as a run |
| `wandb` | `wandb/`, and its server where somebody is logged in | a run `<run>/<peer>` in the group `<run>` |
| `mlflow` | `mlruns/`, or `MLFLOW_TRACKING_URI` | a run `<run>/<peer>`, tagged `genrl_graph.run`, `.peer`, `.group` |

The cells of a sweep share one group, which is called after the sweep.
"""

import json
import math
import os
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
from genrl_graph.store.metrics_file import METRICS, end_of_whole_lines
from genrl_graph.store.run_path import RunPath

EXTRA = ("wandb", "mlflow")
"""Trackers that need an optional package of the same name."""


class Tracker(Protocol):
    """A destination for the metrics of rounds and evaluations."""

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """Write metrics of a peer at a round; a second call for the same round has those of an evaluation."""

    def close(self) -> None:
        """Write or send everything that is buffered; the last call."""


class JsonLines:
    """The file metrics.jsonl: one JSON object per round and peer, and one per evaluation and peer.

    It is part of the run folder: `StoreError` ends the run where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            handle = (RunPath(path.parent) / path.name).open(os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._file = os.fdopen(handle, "r+b", buffering=0)
            self._file.truncate(end_of_whole_lines(self._file))  # a line cut short by a full disk or a crash
        except OSError as error:
            raise failed(path, "open", error) from error

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """Append one line; NaN and infinities become null, since JSON has none. Raises `StoreError`."""
        numbers = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        remaining = memoryview(json.dumps({"round": round, "peer": peer, **numbers}).encode() + b"\n")
        try:
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
        except OSError as error:
            raise failed(self._path, "write", error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """TensorBoard event files, one folder per peer; every write is flushed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def write(self, round: int, peer: str, metrics: Mapping[str, float]) -> None:
        """Write one event at step `round` with a scalar per metric."""
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
        # on a full disk the thread of tensorboardX's SummaryWriter dies silently, and then `add_scalar` hangs
        from tensorboardX.event_file_writer import EventsWriter

        events = RunPath(self._folder.parent) / self._folder.name
        (events / peer).make_folder()
        events.require_plain()
        folder = self._folder / peer
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
    """Return the trackers of a run, metrics.jsonl first; the others are guarded and report failures to `tell`.

    Raises `ParamError` for an unknown name or a missing package, `StoreError` where metrics.jsonl cannot be opened.
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
        JsonLines(folder / METRICS),
        *(GuardedTracker(name, makers[name], tell=tell, limit_s=limit_s) for name in chosen),
    ]


def require_trackers(names: Sequence[str]) -> None:
    """Raise `ParamError` for an unknown tracker, or one whose package is missing; imports none of them."""
    for name in names:
        if name not in KNOWN_TRACKERS:
            hint = f"{did_you_mean(name, KNOWN_TRACKERS)}; there are {', '.join(KNOWN_TRACKERS)}"
            raise ParamError(f"run.trackers: no tracker named {name!r}{hint}")
        if name in EXTRA:
            spec = find_spec(name)
            if spec is None or spec.origin is None:  # without an origin it is a mere folder, as wandb leaves behind
                raise ParamError(f"run.trackers: {name} is not installed; pip install 'genrl-graph[trackers]'")
