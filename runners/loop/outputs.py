"""What the runner asks of the outputs of a step: the declared types, no task twice, rewards that judge."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.node import Generator, Node, Reward, Source
from genrl_graph.edge_types.edge_type import SCORED, EdgeType
from genrl_graph.edge_types.frame import Frame, frames_of
from genrl_graph.errors import NodeFailed, RewardFailed


def named_outputs(node: Node, output: Any, types: Mapping[str, EdgeType]) -> dict[str, Any]:
    """The outputs of a step by name (`node` or `node.field`); raises `NodeFailed` where one is not what is declared."""
    name, fields = node.place.node, node.signature.outputs
    missing = [field for field in fields if field and not hasattr(output, field)]
    if missing:
        raise NodeFailed(f"gave {type(output).__name__} without {missing[0]!r}, which its `run` declares")
    found = {f"{name}.{field}" if field else name: getattr(output, field) if field else output for field in fields}
    for ref, value in found.items():
        wanted = types[ref]
        fits = wanted.accepts(value.edge_type) if isinstance(value, Frame) else isinstance(value, wanted.base)
        if not fits:
            given = value.edge_type if isinstance(value, Frame) else type(value).__name__
            raise NodeFailed(f"gave {given} where its `run` declares {wanted}")
    return found


def refuse_useless(node: Node, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Tasks given twice would make rollouts of one id; a reward that judges too little would train on chance."""
    for rows in outputs.values():
        if isinstance(node, Source) and "id" in rows.table.column_names:
            ids = rows.values("id")
            if len(set(ids)) < len(ids):
                twice = next(id for id in ids if ids.count(id) > 1)
                raise NodeFailed(f"gave task {twice!r} twice in a round; give every task one id")
        if isinstance(node, Reward):
            alive = ~_failed(rows) & ~_unjudged_before(rows, inputs)
            left = int((alive & ~np.isfinite(rows.numpy("reward"))).sum())
            if left > node.max_unjudged * alive.sum():
                limit = f"max_unjudged is {node.max_unjudged:g}"
                raise RewardFailed(f"judged {alive.sum() - left} of {alive.sum()} rows, the others are NaN; {limit}")


def failed_rows(node: Node, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> int:
    """How many rows failed in this very step: completions that were not made, rows that this reward left unjudged."""
    count = 0
    for rows in outputs.values():
        if isinstance(node, Generator) and isinstance(rows, Frame):
            count += int(_failed(rows).sum())
        elif isinstance(node, Reward):
            before = _failed(rows) | _unjudged_before(rows, inputs)
            count += int((~np.isfinite(rows.numpy("reward")) & ~before).sum())
    return count


def _failed(rows: Frame) -> NDArray[np.bool_]:
    if "finish" not in rows.table.column_names:
        return np.zeros(len(rows), dtype=bool)
    return np.asarray([finish == "failed" for finish in rows.values("finish")], dtype=bool)


def _unjudged_before(rows: Frame, inputs: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The rows to which an earlier reward of the chain gave NaN."""
    lost: set[str] = set()
    for frame in (frame for value in inputs.values() for frame in frames_of(value)):
        if SCORED in frame.marks and "id" in frame.table.column_names:
            lost.update(frame.where(~np.isfinite(frame.numpy("reward"))).values("id"))
    if not lost or "id" not in rows.table.column_names:
        return np.zeros(len(rows), dtype=bool)
    return np.asarray([id in lost for id in rows.values("id")], dtype=bool)
