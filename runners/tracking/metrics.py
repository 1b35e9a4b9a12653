"""Collect the metrics of a round step by step and write them to all trackers, one line per round and peer.

`genrl_graph.runners.tracking.metric_names.METRICS` lists the names.
"""

from collections.abc import Collection, Iterable, Mapping

from genrl_graph.runners.loop.context import StepReport
from genrl_graph.runners.loop.stage_metrics import Stages
from genrl_graph.runners.tracking.guard import GuardedTracker
from genrl_graph.runners.tracking.memory import memory
from genrl_graph.runners.tracking.metric_names import plain_name
from genrl_graph.runners.tracking.trackers import Tracker


class RoundMetrics:
    """Collects the metrics of a round by peer and writes them to the trackers; `stages` adds those of each stage.

    Lines that the previous run `reported` ("round" or "eval", number, peer) are not written again.
    """

    def __init__(
        self,
        trackers: Iterable[Tracker],
        *,
        stages: Stages | None = None,
        reported: Collection[tuple[str, int, str]] = (),
    ) -> None:
        self._trackers = list(trackers)
        self._stages = stages
        self._reported = reported
        self._peers: dict[str, dict[str, float]] = {}

    def take(self, done: StepReport) -> None:
        """Add the metrics of a step of one peer."""
        metrics = self._peers.setdefault(done.peer, {})
        name = done.step.node
        metrics.update({f"{name}/{metric}": value for metric, value in done.metrics.items()})
        if done.recalled:
            return
        metrics[f"time/{name}"] = metrics.get(f"time/{name}", 0.0) + done.seconds
        if "tokens" in done.metrics:
            metrics[f"speed/{name}"] = done.metrics["tokens"] / max(done.seconds, 1e-9)

    def end(self, round: int, seconds: float, more: Mapping[str, float] | None = None) -> dict[str, dict[str, float]]:
        """Write the round to the trackers; returns its metrics by peer.

        `more` are metrics of the process: like its time and memory they are written for each of its peers.
        """
        peers, self._peers = self._peers, {}
        common = {"time/round": seconds, **memory(), "trackers/failures": self._failures(), **(more or {})}
        whole = {}
        for peer, metrics in peers.items():
            lines = self._stages.lines({peer: metrics}) if self._stages is not None else []
            staged = {name: value for line in lines for name, value in line.metrics().items()}
            whole[peer] = staged | metrics | common
        return self._write("round", round, whole)

    def drop(self) -> None:
        """Discard the metrics of a round that was skipped."""
        self._peers = {}

    def evaluation(self, number: int, peers: Mapping[str, Mapping[str, float]]) -> None:
        """Write an evaluation after `number` rounds to the trackers; its names begin with `eval/`."""
        self._write("eval", number, peers)

    def close(self) -> None:
        """Close the trackers, metrics.jsonl last."""
        for tracker in reversed(self._trackers):
            tracker.close()

    def _failures(self) -> float:
        return float(sum(tracker.failures for tracker in self._trackers if isinstance(tracker, GuardedTracker)))

    def _write(self, what: str, round: int, peers: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
        """Write a line per peer under the plain names, and return the lines."""
        plain = {
            peer: {plain_name(name): float(value) for name, value in metrics.items()} for peer, metrics in peers.items()
        }
        for peer, metrics in plain.items():
            for tracker in self._trackers if (what, round, peer) not in self._reported else ():
                tracker.write(round, peer, metrics)
        return plain
