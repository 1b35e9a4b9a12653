"""Costs of a stored run from its metrics.jsonl: seconds, completion lengths, peak memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from genrl_graph.dag.graph import Graph
from genrl_graph.errors import StoreError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.nodes.policy.compute.activation_checkpointing import GB
from genrl_graph.runners.estimate.forecast import MeasuredRun
from genrl_graph.store.metrics_file import METRICS, metric_lines
from genrl_graph.store.peer_folders import graph_folder, run_folders
from genrl_graph.store.run_folder import GRAPH, read_graph

Lines = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Observed:
    """A stored run: its graph, measured costs, mean completion length by generator, share of rows with a gradient."""

    graph: Graph
    fact: MeasuredRun
    lengths: Mapping[str, float]
    varied: float | None


def read_observed(folder: Path) -> Observed:
    """Read a run folder; raises `StoreError` where it has no round or its graph cannot be read."""
    path = graph_folder(folder) / GRAPH
    text, _ = read_graph(path.parent)
    loaded = read_document(parse_document(text, file=str(path)), folder=path.parent)
    if loaded.problems:
        raise StoreError(f"{path}: {loaded.lines()[0]}; give the run's --import")
    lines = _lines(folder)
    names = list(loaded.graph.nodes)
    rounds = sorted({line["round"] for line in lines})
    means = {name: sum(_total(lines, round, f"time/{name}") for round in rounds) / len(rounds) for name in names}
    first = {name: _total(lines, rounds[0], f"time/{name}") for name in names}
    device = [line["memory/device_gb"] for line in lines if "memory/device_gb" in line]
    peaks = device or [line["memory/peak_gb"] for line in lines if "memory/peak_gb" in line]
    fact = MeasuredRun(str(folder), means, first, max(peaks) * GB if peaks else None)
    return Observed(loaded.graph, fact, _lengths(lines, names), _varied(lines, names))


def _lines(folder: Path) -> Lines:
    lines = (line for path in run_folders(folder) for line in metric_lines(path))
    rounds = [line for line in lines if "time/round" in line]  # not those of evaluations
    if not rounds:
        raise StoreError(f"{folder / METRICS}: holds no round; name a run that has played one")
    return rounds


def _total(lines: Lines, round: float, name: str) -> float:
    return sum(line.get(name, 0.0) for line in lines if line["round"] == round)


def _lengths(lines: Lines, names: Sequence[str]) -> dict[str, float]:
    """Return the mean completion length of each node that samples, over rounds and peers."""
    lengths = {}
    for name in names:
        values = [line[f"{name}/completion_length"] for line in lines if f"{name}/completion_length" in line]
        if values:
            lengths[name] = sum(values) / len(values)
    return lengths


def _varied(lines: Lines, names: Sequence[str]) -> float | None:
    """Return the share of rows with a gradient, among those of updates; None without updates."""
    trained = sum(line.get(f"{name}/trained_rows", 0.0) for name in names for line in lines)
    zero_variance = sum(line.get(f"{name}/rows_without_forward", 0.0) for name in names for line in lines)
    return trained / (trained + zero_variance) if trained + zero_variance else None
