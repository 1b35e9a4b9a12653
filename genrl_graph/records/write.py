"""What is kept of a step: the rows and facts that the store gets of it."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.contract.node import Advantage, Exchange, Node, Reward
from genrl_graph.contract.policy import Carried, Policy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import PEER, EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.records.inherit import IN_FULL, Runs
from genrl_graph.records.rebuild import described, gives, inherited_by, own_places
from genrl_graph.store.journal import Record

Inputs = Mapping[str, Any]

EVAL_PREFIX = "eval/"
"""What the groups of an evaluation in the store, and its metrics, begin with."""
WHOLE_KINDS = ("source", "generate", "exchange")
"""The kinds of nodes whose rows are stored with all their columns."""


def step_record(
    node: Node,
    types: Mapping[str, EdgeType],
    *,
    round: int,
    peer: str,
    prefix: str,
    inputs: Inputs,
    outputs: Mapping[str, Any],
    offer: Frame | None,
    metrics: Mapping[str, float],
    log: Log,
) -> Record:
    """The record of a step, from which `recall.Recorded` makes its outputs and metrics again.

    `offer` is what an exchange sent of its own; groups and the name of the node begin with `prefix`. Facts beside
    those that the node logged: `metrics`, `digests` and `versions` of carried values, `types` of outputs that are
    more than their node declares, `own_rows` where an exchange laid rows of the own offer.
    """
    name = prefix + node.place.node
    tables, facts = {}, dict(log.facts)
    for ref, value in outputs.items():
        if isinstance(value, Frame):
            group = prefix + ref.replace(".", "/")
            if value.edge_type != types[ref]:
                facts.setdefault("types", {})[ref] = described(value.edge_type)
            tables[group], own, enough = _kept(node, value, inputs, offer, peer)
            if own:
                facts.setdefault("own_rows", {})[ref] = own
            if not enough:
                tables[f"{group}/{IN_FULL}"] = value.table
        elif isinstance(value, Carried):
            facts.setdefault("digests", {})[ref] = value.digest()
            if isinstance(value, Policy):
                facts.setdefault("versions", {})[ref] = value.version
    for table_name, columns in log.tables.items():
        table = pa.table(dict(columns))
        if table.num_rows:  # Arrow cannot tell the types of empty lists
            tables[f"{name}/{table_name}"] = table
    if metrics:
        facts["metrics"] = {key: value if math.isfinite(value) else str(value) for key, value in metrics.items()}
    return Record(round, name, peer, facts, tables)


def _kept(
    node: Node, rows: Frame, inputs: Inputs, offer: Frame | None, holder: str
) -> tuple[pa.Table, Runs | None, bool]:
    """What the store keeps of an output, and whether that gives the very rows again.

    Rows are kept in full where they came into being here, of an exchange only those of others, with the places of
    the own ones; of other nodes the ids and what was added.
    """
    if is_exchanged(node, rows.edge_type):
        if "peer" not in rows.table.column_names:
            return rows.table, None, True
        mine = pc.equal(rows.table.column("peer"), holder).to_numpy()
        own = own_places(rows, mine, offer) if offer is not None else None
        return rows.table.filter(pa.array(~mine)), own, own is not None or not mine.any()
    if is_whole(node.kind, rows.declared(rows.marks)):
        return rows.table, None, True
    inherited = inherited_by(rows.table.column("id"), inputs)
    added = _added(node)
    names = (name for name in rows.table.column_names if name != "id" and (name in added or not inherited.has(name)))
    stored = rows.table.select(["id", *names])
    return stored, None, gives(rows, stored, inherited)


def _added(node: Node) -> set[str]:
    """The columns that a judge is there for; a select may declare marks, but it changes no row."""
    if not isinstance(node, Reward | Advantage):
        return set()
    marks = {mark for pattern in node.signature.outputs.values() for mark in pattern.marks}
    marks -= {implied for mark in marks for implied in mark.implies}
    return {name for mark in marks for name in mark.columns}


def is_exchanged(node: Node, kind: EdgeType) -> bool:
    """Whether rows of this type come from the swarm through this very node: only those of others are stored."""
    return PEER in kind.marks and isinstance(node, Exchange)


def is_whole(kind: str, columns: Collection[str]) -> bool:
    """Whether a node of this kind makes its rows itself, or they have no ids by which they could be found again."""
    return kind in WHOLE_KINDS or "id" not in columns
