"""Make the journal record of a step: the rows and facts that the store keeps."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.contract.node import Advantage, Exchange, Node, Reward
from genrl_graph.contract.policy import Carried, Policy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import PEER, EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.records.inherit import IN_FULL, OwnSpans
from genrl_graph.records.rebuild import inherited_columns, own_spans, rebuilds_exactly, type_json
from genrl_graph.store.journal import Record
from genrl_graph.store.outbox import SUBMISSIONS

Inputs = Mapping[str, Any]

EVAL_PREFIX = "eval/"
"""Prefix of the store groups and the metrics of evaluations."""
FULL_KINDS = ("source", "generate", "exchange")
"""Kinds of nodes whose rows are stored with all their columns."""


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
    """Make the record of a step, from which `recall.RecordedStep` can rebuild its outputs and metrics.

    `types` are the declared types of outputs by reference, `offer` is what this peer offered if the node is an
    exchange, and `prefix` begins the names of groups and of the node. Besides the facts that the node logged, the
    record has `metrics`, `digests` and `versions` of carried values, `types` of outputs that differ from the declared
    ones, and `own_rows`: the positions of rows of the own offer in the output of an exchange.
    """
    name = prefix + node.place.node
    tables: dict[str, pa.Table] = {}
    facts = dict(log.facts)
    for ref, value in outputs.items():
        if isinstance(value, Frame):
            group = prefix + ref.replace(".", "/")
            if value.edge_type != types[ref]:
                facts.setdefault("types", {})[ref] = type_json(value.edge_type)
            tables[group], own, rebuildable = _stored_rows(node, value, inputs, offer, peer)
            if own:
                facts.setdefault("own_rows", {})[ref] = own
            if not rebuildable:
                tables[f"{group}/{IN_FULL}"] = value.table
        elif isinstance(value, Carried):
            facts.setdefault("digests", {})[ref] = value.digest()
            if isinstance(value, Policy):
                facts.setdefault("versions", {})[ref] = value.version
    tables |= {f"{name}/{table_name}": table for table_name, table in _logged_tables(log)}
    if log.submissions:
        facts[SUBMISSIONS] = log.submissions
    if metrics:
        facts["metrics"] = {key: value if math.isfinite(value) else str(value) for key, value in metrics.items()}
    return Record(round, name, peer, facts, tables)


def _logged_tables(log: Log) -> Iterator[tuple[str, pa.Table]]:
    """Yield the tables that the node logged, by name; empty ones are left out, as Arrow cannot infer their types."""
    for name, columns in log.tables.items():
        table = pa.table(dict(columns))
        if table.num_rows:
            yield name, table


def _stored_rows(
    node: Node, rows: Frame, inputs: Inputs, offer: Frame | None, holder: str
) -> tuple[pa.Table, OwnSpans | None, bool]:
    """Return the rows to store of an output, the positions of own rows, and whether these suffice to rebuild it.

    Sources, generators and exchanges store whole rows, exchanges only those of other peers, with the positions of the
    own ones. Other nodes store ids and the columns that they added.
    """
    if stores_others_only(node, rows.edge_type):
        if "peer" not in rows.table.column_names:
            return rows.table, None, True
        mine = pc.equal(rows.table.column("peer"), holder).to_numpy()
        own = own_spans(rows, mine, offer) if offer is not None else None
        return rows.table.filter(pa.array(~mine)), own, own is not None or not mine.any()
    if stored_in_full(node.kind, rows.declared(rows.marks)):
        return rows.table, None, True
    inherited = inherited_columns(rows.table.column("id"), inputs)
    added = _added_columns(node)
    names = (name for name in rows.table.column_names if name != "id" and (name in added or not inherited.has(name)))
    stored = rows.table.select(["id", *names])
    return stored, None, rebuilds_exactly(rows, stored, inherited)


def _added_columns(node: Node) -> set[str]:
    """Return the columns that a reward or advantage adds; a select may declare marks, but adds no columns."""
    if not isinstance(node, Reward | Advantage):
        return set()
    marks = {mark for pattern in node.signature.outputs.values() for mark in pattern.marks}
    marks -= {implied for mark in marks for implied in mark.implies}
    return {name for mark in marks for name in mark.columns}


def stores_others_only(node: Node, kind: EdgeType) -> bool:
    """Return whether the node is an exchange that gives rows of peers; then only rows of other peers are stored."""
    return PEER in kind.marks and isinstance(node, Exchange)


def stored_in_full(kind: str, columns: Collection[str]) -> bool:
    """Return whether all columns are stored: of nodes that make or receive rows, and of rows without ids."""
    return kind in FULL_KINDS or "id" not in columns
