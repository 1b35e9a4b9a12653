"""The metrics that every step gives: rows, rewards, tokens, versions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from genrl_graph.contract.node import Generator, Node, Reward
from genrl_graph.contract.policy import Policy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import Rollouts


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
