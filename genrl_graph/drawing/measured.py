"""Read the metrics of each node from the metrics.jsonl of a run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genrl_graph.errors import StoreError
from genrl_graph.messages import counted
from genrl_graph.store.metrics_file import METRICS, metric_lines
from genrl_graph.store.peer_folders import run_folders
from genrl_graph.store.run_path import RunPath


@dataclass(frozen=True, slots=True)
class Numbers:
    """The metrics of a node, as means over peers (and rounds); None where a node does not report one.

    `time_share` is the share of the seconds of all nodes; `unjudged` is a share of rows, `zero_variance` of groups.
    """

    time_share: float | None = None
    seconds: float | None = None
    tokens: float | None = None
    rows: float | None = None
    reward: float | None = None
    refused: float | None = None
    failed_rows: float | None = None
    unjudged: float | None = None
    zero_variance: float | None = None

    def texts(self) -> list[str]:
        """Return the numbers as pictures show them; counts of trouble, such as failed rows, only where above 0."""
        texts = []
        if self.time_share is not None and self.seconds is not None:
            texts.append(f"{_share(self.time_share)} of time, {self.seconds:.3g} s")
        for value, noun in ((self.rows, "rows"), (self.tokens, "tokens")):
            if value is not None:
                texts.append(f"{_number(value)} {noun}")
        if self.reward is not None:
            texts.append(f"reward {self.reward:.3f}")
        if self.zero_variance is not None:
            texts.append(f"zero variance {_share(self.zero_variance)}")
        if self.unjudged:
            texts.append(f"unjudged {_share(self.unjudged)}")
        for value, noun in ((self.failed_rows, "failed"), (self.refused, "refused")):
            if value:
                texts.append(f"{_number(value)} {noun}")
        return texts


@dataclass(frozen=True, slots=True)
class RunNumbers:
    """The numbers of a run by node, and a title with the rounds and the number of peers that they cover."""

    title: str
    nodes: Mapping[str, Numbers]


def measured(folder: Path, names: Iterable[str], *, round: int | None = None) -> RunNumbers:
    """Return the numbers of the named nodes in one round of a run, or their means over all training rounds.

    Raises `StoreError` for a folder without metrics, and for a round that was not played.
    """
    folders = run_folders(folder) or [folder]
    if not any((RunPath(path) / METRICS).exists() for path in folders):
        raise StoreError(f"{folder / METRICS}: no such file; --run wants the folder of a run that has ended a round")
    lines = [line for path in folders for line in metric_lines(path) if "time/round" in line]
    if not lines:
        raise StoreError(f"{folder / METRICS}: no round has ended yet; play one first")
    if round is not None:
        last = max(line["round"] for line in lines)
        lines = [line for line in lines if line["round"] == round]
        if not lines:
            raise StoreError(f"{folder / METRICS}: no round {round}; the last one is {last} (the first is 0)")
    rounds, peers = {line["round"] for line in lines}, {line["peer"] for line in lines}
    which = f"round {round}" if round is not None else f"mean of {counted(len(rounds), 'round')}"
    by_node = {name: _numbers(lines, name) for name in names}
    total = sum(numbers.seconds or 0.0 for numbers in by_node.values()) or 1.0
    return RunNumbers(
        f"{folder.name}: {which}, {counted(len(peers), 'peer')}",
        {name: _with_share(numbers, total) for name, numbers in by_node.items()},
    )


def _numbers(lines: list[dict[str, Any]], name: str) -> Numbers:
    def mean(metric: str) -> float | None:
        values = [line[metric] for line in lines if isinstance(line.get(metric), int | float)]
        values = [value for value in values if value == value]
        return sum(values) / len(values) if values else None

    keys = ("tokens", "rows", "reward", "refused", "failed_rows", "unjudged", "zero_variance")
    return Numbers(seconds=mean(f"time/{name}"), **{key: mean(f"{name}/{key}") for key in keys})


def _with_share(numbers: Numbers, total: float) -> Numbers:
    return numbers if numbers.seconds is None else replace(numbers, time_share=numbers.seconds / total)


def _share(value: float) -> str:
    if 0 < value < 0.001:
        return "<0.1%"
    return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"
