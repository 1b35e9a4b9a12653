"""The lines of metrics.jsonl of a previous run by round and peer, and the metrics of the rounds that it played."""

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from genrl_graph.records.write import EVAL_PREFIX
from genrl_graph.store.metrics_file import metric_lines

Line = tuple[str, int, str]
"""The key of a line of metrics.jsonl: "round" or "eval", the round, the peer."""
Peers = Mapping[str, Mapping[str, float]]
"""Metrics by peer and name."""


def keyed_lines(folder: Path) -> Iterator[tuple[Line, dict[str, float]]]:
    """Yield the metrics of each line by its key; NaN is a value that was not finite."""
    for values in metric_lines(folder):
        key: Line = ("eval" if f"{EVAL_PREFIX}time" in values else "round", values.pop("round"), values.pop("peer"))
        yield key, {name: math.nan if value is None else value for name, value in values.items()}


def played_rounds(folder: Path) -> Iterator[tuple[int, Peers]]:
    """Yield each round that was played, with its metrics by peer, one round at a time."""
    rounds = (line for line in keyed_lines(folder) if line[0][0] == "round")
    for number, lines in groupby(rounds, key=lambda line: line[0][1]):
        yield number, {peer: values for (_, _, peer), values in lines}
