"""Checks on the outputs of a step: the declared types, no duplicate tasks, enough judged rows."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.node import Generator, Node, Reward, Source
from genrl_graph.edge_types.edge_type import SCORED, EdgeType
from genrl_graph.edge_types.frame import Frame, frames_of
from genrl_graph.errors import NodeFailed, RewardFailed


def named_outputs(node: Node, output: Any, types: Mapping[str, EdgeType]) -> dict[str, Any]:
    """Return the outputs of a step by name (`node` or `node.field`).

    Raises `NodeFailed` where one is missing or not of its declared type.
    """
    name, fields = node.place.node, node.signature.outputs
    missing = [field for field in fields if field and not hasattr(output, field)]
    if missing:
        raise NodeFailed(f"gave {type(output).__name__} without {missing[0]!r}, which its `run` declares")
    outputs = {f"{name}.{field}" if field else name: getattr(output, field) if field else output for field in fields}
    for ref, value in outputs.items():
        declared = types[ref]
        fits = declared.accepts(value.edge_type) if isinstance(value, Frame) else isinstance(value, declared.base)
        if not fits:
            actual = value.edge_type if isinstance(value, Frame) else type(value).__name__
            raise NodeFailed(f"gave {actual} where its `run` declares {declared}")
    return outputs


def check_rows(
    node: Node, inputs: Mapping[str, Any], outputs: Mapping[str, Any], *, peer: str, excused: Collection[str] = ()
) -> None:
    """Refuse duplicate tasks of a source, and a reward that left too many rows of `peer` unjudged.

    The rollouts of duplicate tasks would share ids; with few judged rows the policy would train on chance. Rows with
    the ids `excused` do not count. Raises `NodeFailed` for a source, `RewardFailed` above the `max_unjudged` of a
    reward.
    """
    for rows in outputs.values():
        if isinstance(node, Source) and "id" in rows.table.column_names:
            ids = rows.values("id")
            if len(set(ids)) < len(ids):
                twice = next(id for id in ids if ids.count(id) > 1)
                raise NodeFailed(f"gave task {twice!r} twice in a round; give every task one id")
        if isinstance(node, Reward):
            judgeable, unjudged = _unjudged_here(rows, inputs, peer, excused)
            if unjudged > node.max_unjudged * judgeable:
                limit = f"max_unjudged is {node.max_unjudged:g}"
                raise RewardFailed(f"judged {judgeable - unjudged} of {judgeable} rows, the others are NaN; {limit}")


def failed_rows(
    node: Node, inputs: Mapping[str, Any], outputs: Mapping[str, Any], *, peer: str, excused: Collection[str] = ()
) -> int:
    """Count the rows of `peer` that failed in this step: completions of a generator, rows that a reward left unjudged.

    Rows with the ids `excused` do not count.
    """
    count = 0
    for rows in outputs.values():
        if isinstance(node, Generator) and isinstance(rows, Frame):
            count += int(_failed(rows).sum())
        elif isinstance(node, Reward):
            count += _unjudged_here(rows, inputs, peer, excused)[1]
    return count


def _unjudged_here(rows: Frame, inputs: Mapping[str, Any], peer: str, excused: Collection[str]) -> tuple[int, int]:
    """Return how many own rows this reward could judge, and how many of these it left unjudged.

    Rows that failed, or that an earlier reward of the chain left unjudged, do not count.
    """
    judgeable = ~_failed(rows) & ~_unjudged_before(rows, inputs) & _is_own(rows, peer, excused)
    unjudged = judgeable & ~np.isfinite(rows.numpy("reward"))
    return int(judgeable.sum()), int(unjudged.sum())


def _is_own(rows: Frame, peer: str, excused: Collection[str]) -> NDArray[np.bool_]:
    """Return a mask of the rows that `peer` made, without those that are excused."""
    own = np.ones(len(rows), dtype=bool)
    if "peer" in rows.table.column_names:
        own &= np.asarray([name == peer for name in rows.values("peer")], dtype=bool)
    if excused and "id" in rows.table.column_names:
        own &= np.asarray([id not in excused for id in rows.values("id")], dtype=bool)
    return own


def _failed(rows: Frame) -> NDArray[np.bool_]:
    if "finish_reason" not in rows.table.column_names:
        return np.zeros(len(rows), dtype=bool)
    return np.asarray([finish == "failed" for finish in rows.values("finish_reason")], dtype=bool)


def _unjudged_before(rows: Frame, inputs: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return a mask of the rows whose reward is NaN in an input, because an earlier reward left them unjudged."""
    unjudged: set[str] = set()
    for frame in (frame for value in inputs.values() for frame in frames_of(value)):
        if SCORED in frame.marks and "id" in frame.table.column_names:
            unjudged.update(frame.where(~np.isfinite(frame.numpy("reward"))).values("id"))
    if not unjudged or "id" not in rows.table.column_names:
        return np.zeros(len(rows), dtype=bool)
    return np.asarray([id in unjudged for id in rows.values("id")], dtype=bool)
