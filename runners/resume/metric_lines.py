"""Read metrics.jsonl of a previous run: which lines it has, and the metrics of the rounds that it played."""

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from genrl_graph.records.write import EVAL_PREFIX

Line = tuple[str, int, str]
"""The key of a line of metrics.jsonl: "round" or "eval", the round, the peer."""
Peers = Mapping[str, Mapping[str, float]]
"""Metrics by peer and name."""


def metric_lines(path: Path) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Yield the lines by key; a last line without its end was not written whole."""
    if not path.exists():
        return
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):
                values = json.loads(line)
                kind = "eval" if f"{EVAL_PREFIX}time" in values else "round"
                yield (kind, values.pop("round"), values.pop("peer")), values


def played_rounds(path: Path) -> Iterator[tuple[int, Peers]]:
    """Yield each round that was played, with its metrics by peer, one round at a time."""
    rounds = (line for line in metric_lines(path) if line[0][0] == "round")
    for number, lines in groupby(rounds, key=lambda line: line[0][1]):
        yield number, {peer: values for (_, _, peer), values in lines}
