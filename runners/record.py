"""What is kept of a step: the columns that the store gets of an output, and the metrics that every output gives."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from genrl_graph.edges import PEER, SCORED
from genrl_graph.frames import Frame
from genrl_graph.node import Advantage, Exchange, Generator, Node, Reward, Source
from genrl_graph.policy import Policy
from genrl_graph.resources import Log


def stored_columns(node: Node, rows: Frame, inputs: Mapping[str, Any], holder: str) -> pa.Table:
    """What the store keeps of an output: rows in full where they came into being here, else ids and what was added."""
    names = rows.table.column_names
    if PEER in rows.marks and isinstance(node, Exchange):
        return rows.where([peer != holder for peer in rows.values("peer")]).table if "peer" in names else rows.table
    if "id" not in names or isinstance(node, Source | Generator | Exchange):
        return rows.table
    ids = set(rows.values("id"))
    given = [frame for value in inputs.values() for frame in _frames(value) if "id" in frame.table.column_names]
    known = {name for frame in given if ids <= set(frame.values("id")) for name in frame.table.column_names}
    judges = isinstance(node, Reward | Advantage)  # a select may declare marks, but it changes no row
    own = {mark for pattern in node.signature.outputs.values() for mark in pattern.marks if judges}
    own -= {implied for mark in own for implied in mark.implies}
    added = {name for mark in own for name in mark.columns}
    return rows.table.select(["id", *(name for name in names if name != "id" and (name in added or name not in known))])


def _frames(value: Any) -> list[Frame]:
    if isinstance(value, Frame):
        return [value]
    several = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [item for item in several if isinstance(item, Frame)]


def step_metrics(node: Node, outputs: Mapping[str, Any], log: Log) -> dict[str, float]:
    """Rows, means of rewards, the version of a policy, and what the node logged itself."""
    metrics: dict[str, float] = {}
    for value in outputs.values():
        if isinstance(value, Frame):
            metrics["rows"] = metrics.get("rows", 0.0) + len(value)
            if isinstance(node, Reward) and SCORED in value.marks:
                metrics.update(_reward_means(value))
        elif isinstance(value, Policy):
            metrics["version"] = float(value.version)
    return metrics | log.metrics


def _reward_means(rows: Frame) -> dict[str, float]:
    """The mean of the reward and of each of its terms over the rows that could be judged."""
    means = {}
    for name in rows.table.column_names:
        if name == "reward" or name.startswith("reward_"):
            values = rows.numpy(name)
            judged = values[values == values]
            if len(judged):
                means[name] = float(judged.mean())
    return means
