"""What is kept of a step: the columns that the store gets of an output, and the metrics that every output gives."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from genrl_graph.edges import PEER, SCORED
from genrl_graph.frames import Frame, Rollouts
from genrl_graph.node import Advantage, Exchange, Generator, Node, Reward, Source
from genrl_graph.policy import Policy
from genrl_graph.resources import Log
from genrl_graph.runners.outputs import frames_of


def stored_columns(node: Node, rows: Frame, inputs: Mapping[str, Any], holder: str) -> pa.Table:
    """What the store keeps of an output: rows in full where they came into being here, else ids and what was added."""
    names = rows.table.column_names
    if PEER in rows.marks and isinstance(node, Exchange):
        return rows.where([peer != holder for peer in rows.values("peer")]).table if "peer" in names else rows.table
    if "id" not in names or isinstance(node, Source | Generator | Exchange):
        return rows.table
    ids = set(rows.values("id"))
    given = [frame for value in inputs.values() for frame in frames_of(value) if "id" in frame.table.column_names]
    having: dict[str, set[str]] = {}  # of each column of the inputs, the rows that have it there
    for frame in given:
        for name in frame.table.column_names:
            having.setdefault(name, set()).update(frame.values("id"))
    known = {name for name, rows_there in having.items() if ids <= rows_there}
    judges = isinstance(node, Reward | Advantage)  # a select may declare marks, but it changes no row
    own = {mark for pattern in node.signature.outputs.values() for mark in pattern.marks if judges}
    own -= {implied for mark in own for implied in mark.implies}
    added = {name for mark in own for name in mark.columns}
    return rows.table.select(["id", *(name for name in names if name != "id" and (name in added or name not in known))])


def step_metrics(node: Node, outputs: Mapping[str, Any], log: Log) -> dict[str, float]:
    """What every node of a kind reports, also one of your own, and over it what the node logged itself."""
    metrics: dict[str, float] = {}
    for value in outputs.values():
        if isinstance(value, Frame):
            metrics["rows"] = metrics.get("rows", 0.0) + len(value)
            if isinstance(node, Reward) and SCORED in value.marks:
                metrics.update(_reward_means(value))
            if isinstance(node, Generator) and isinstance(value, Rollouts):
                metrics.update(_lengths(value))
        elif isinstance(value, Policy):
            metrics["version"] = float(value.version)
    return metrics | log.metrics


def _reward_means(rows: Frame) -> dict[str, float]:
    """The mean of the reward and of each of its terms over the rows that could be judged, and the share of the rest."""
    means = {}
    for name in rows.table.column_names:
        if name == "reward" or name.startswith("reward_"):
            values = rows.numpy(name)
            judged = values[values == values]
            if len(judged):
                means[name] = float(judged.mean())
    alive = rows.finished() if isinstance(rows, Rollouts) else rows
    if len(alive):
        means["unjudged"] = float(np.isnan(alive.numpy("reward")).mean())
    return means


def _lengths(rows: Rollouts) -> dict[str, float]:
    """Tokens of the completions that did not fail, their mean, and the share that was cut."""
    made = rows.finished()
    lengths = [len(ids) for ids in made.ragged("completion_ids")]
    found = {"tokens": float(sum(lengths))}
    if lengths:
        found["completion_length"] = sum(lengths) / len(lengths)
        found["truncated"] = made.values("finish").count("length") / len(lengths)
    return found
