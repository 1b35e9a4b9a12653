"""Step metrics: the runner computes rows, rewards, tokens and versions for every node; nodes log only what is more."""

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
    """Return the metrics that every node of a kind reports, and those that the node logged, which win."""
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
    """Return the means of the reward and its terms over the judged rows, and the share of finished rows without reward.

    Rows without a finite reward, also after an earlier reward of the chain, are unjudged.
    """
    means = {}
    for name in rows.table.column_names:
        if name == "reward" or name.startswith("reward_"):
            values = rows.numpy(name)
            judged = values[np.isfinite(values)]
            if len(judged):
                means[name] = float(judged.mean())
    finished = rows.finished() if isinstance(rows, Rollouts) else rows
    if len(finished):
        means["unjudged"] = float((~np.isfinite(finished.numpy("reward"))).mean())
    return means


def _lengths(rows: Rollouts) -> dict[str, float]:
    """Return the number of sampled tokens, the mean completion length and the share of truncated completions.

    Completions that failed do not count; without any other there is only the number of tokens, 0.
    """
    finished = rows.finished()
    lengths = [len(ids) for ids in finished.ragged("completion_ids")]
    metrics = {"tokens": float(sum(lengths))}
    if lengths:
        metrics["completion_length"] = sum(lengths) / len(lengths)
        metrics["truncated"] = finished.values("finish_reason").count("length") / len(lengths)
    return metrics
