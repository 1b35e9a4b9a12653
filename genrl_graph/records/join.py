"""Rebuild the rows of node outputs for many rounds at once, from stored columns and those of the node's inputs.

`records.write` decides what is stored. `records.rebuild` rebuilds the outputs of one step whose inputs are at hand;
this module follows the edges of the graph to find them. Both look up columns with `records.inherit`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrl_graph.contract.node import Node
from genrl_graph.dag.graph import Edge, Graph, Part
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.records.facts import read_facts
from genrl_graph.records.inherit import (
    IN_FULL,
    STORE_COLUMNS,
    InheritedColumns,
    InputRows,
    column_filter,
    merge_own_rows,
    with_inherited,
)
from genrl_graph.records.write import EVAL_PREFIX, stored_in_full
from genrl_graph.store.run_store import RunStore
from genrl_graph.store.view import rows_of_step


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows, and for each row the number of the peer round, a pair (round, holder), that committed it."""

    table: pa.Table
    peer_round: NDArray[np.int64]

    def keys(self) -> pa.ChunkedArray:
        """Return a key per row, `<peer round> <id>`: an id may recur in other rounds and at other peers."""
        numbers, ids = pc.cast(pa.array(self.peer_round), pa.string()), pc.cast(self.table.column("id"), pa.string())
        return pc.binary_join_element_wise(pa.chunked_array([numbers]), ids, " ")

    def where(self, mask: NDArray[np.bool_]) -> "StoredRows":
        """Return the rows at which the mask holds."""
        return self if mask.all() else StoredRows(self.table.filter(pa.array(mask)), self.peer_round[mask])

    def by_peer_round(self) -> dict[int, pa.Table]:
        """Return the rows of each peer round."""
        assert (np.diff(self.peer_round) >= 0).all(), "a run commits one peer round after the other"
        numbers, starts, counts = np.unique(self.peer_round, return_index=True, return_counts=True)
        spans = zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True)
        return {number: self.table.slice(start, count) for number, start, count in spans}

    def without(self, names: Sequence[str]) -> "StoredRows":
        """Return the rows without these columns."""
        return StoredRows(
            self.table.drop_columns([name for name in names if name in self.table.column_names]), self.peer_round
        )


class Snapshot:
    """The rows of some rounds of a run, all or those of one holder, as committed when the snapshot was taken.

    `peer_rounds` lists the pairs (round, holder) by number. Rows that a writer commits later are left out.
    """

    def __init__(
        self,
        store: RunStore,
        graph: Graph,
        types: Mapping[str, EdgeType],
        *,
        rounds: range | None = None,
        holder: str | None = None,
    ) -> None:
        self._store, self._graph, self._types, self._rounds = store, graph, types, rounds
        self._joined: dict[str, StoredRows] = {}
        steps = store.steps(rounds)  # before any rows: later commits append after the rows counted here
        numbers: dict[tuple[int, str], int] = {}
        self._counts: dict[str, list[tuple[int, int]]] = {}  # by group: peer round and rows of its records, in order
        self._facts: dict[tuple[str, int], str] = {}  # by node and peer round, as JSON
        columns = (steps.column(name).to_pylist() for name in ("round", "holder", "node", "rows", "facts"))
        for round, name, node, rows, facts in zip(*columns, strict=True):
            peer_round = numbers.setdefault((round, name), len(numbers))
            self._facts[node, peer_round] = facts
            for group, count in rows_of_step(rows, store.folder).items():
                self._counts.setdefault(group, []).append((peer_round, count))
        self.peer_rounds = list(numbers)
        self._wanted = np.asarray([holder in (None, name) for _, name in self.peer_rounds], dtype=bool)

    def joined(self, ref: str) -> StoredRows | None:
        """Return the rows of an output (`node`, `node.field`, or `eval/node` in evaluations) with all their columns.

        None where the store has no rows of it.
        """
        if ref not in self._joined:
            rows = self._join(ref)
            if rows is None:
                return None
            self._joined[ref] = rows
        return self._joined[ref]

    def _stored(self, group: str) -> StoredRows | None:
        """Return the rows of a group as they are stored, None where there is no such group."""
        if group not in self._counts:
            return None
        numbers, counts = np.asarray(self._counts[group], dtype=np.int64).T
        peer_round = np.repeat(numbers, counts)
        table = self._store.table(group, self._rounds).slice(0, len(peer_round))
        return StoredRows(table, peer_round).where(self._wanted[peer_round])

    def _join(self, ref: str) -> StoredRows | None:
        """Read the stored rows of an output and add the columns of its inputs, or its own offer."""
        bare = ref.removeprefix(EVAL_PREFIX)
        prefix, group = ref[: len(ref) - len(bare)], ref.replace(".", "/")
        part, rows = self._graph.nodes[bare.partition(".")[0]], self._stored(group)
        if rows is None:
            return None
        kind, names = part.type_name.partition(".")[0], rows.table.column_names
        in_full = self._stored(f"{group}/{IN_FULL}")
        if in_full is not None:
            rows = rows.where(~np.isin(rows.peer_round, in_full.peer_round))
        if stored_in_full(kind, names):
            rows = rows.without(self._store_columns(bare))
            rows = self._with_own_rows(rows, bare, part, prefix) if kind == "exchange" else rows
        else:
            inputs = [table for edge in _by_socket(part) if (table := self._input(edge, prefix)) is not None]
            rows = with_input_columns(rows, inputs)
        return rows if in_full is None else concat_rows([rows, in_full.without(self._store_columns(bare))])

    def _input(self, edge: Edge, prefix: str) -> StoredRows | None:
        return self.joined(prefix + edge.ref) if edge.origin in self._graph.nodes else None

    def _store_columns(self, ref: str) -> list[str]:
        """List the columns that the store added to rows that it holds in full."""
        kind = self._types.get(ref)
        if kind is None or not issubclass(kind.base, Frame):
            return []
        declared = kind.base.declared(kind.marks)
        return [name for name in STORE_COLUMNS if name not in declared]

    def _with_own_rows(self, external: StoredRows, ref: str, part: Part, prefix: str) -> StoredRows:
        """Rebuild the output of an exchange: the stored rows of others, and own rows of the offer between them."""
        tables = external.by_peer_round()
        inputs = {
            edge.ref: rows.by_peer_round() for edge in part.edges() if (rows := self._input(edge, prefix)) is not None
        }
        for number in np.flatnonzero(self._wanted).tolist():
            facts = read_facts(self._facts.get((prefix + part.name, number), "{}"), self._store.folder)
            if own := facts.get("own_rows", {}).get(ref):
                offer = self._offer(part, {name: rows[number] for name, rows in inputs.items() if number in rows})
                tables[number] = merge_own_rows(tables.get(number, external.table.slice(0, 0)), offer, own)
        parts = [
            StoredRows(table, np.full(table.num_rows, number, np.int64)) for number, table in sorted(tables.items())
        ]
        return concat_rows([*parts, external.where(external.peer_round < 0)])

    def _offer(self, part: Part, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Return the rows that an exchange offered; where its class or a param is unknown, those of its first input."""
        offer = getattr(part.declared, "offer", None)
        if offer is None:
            return next(iter(inputs.values()))
        frames = {
            ref: as_frame(self._types[ref], inputs.get(ref, pa.table({})))
            for ref in {edge.ref for edge in part.edges()}
        }
        frame: Frame = offer(**part.bind(frames))
        return frame.table


def as_frame(kind: EdgeType, table: pa.Table) -> Frame:
    """Return the rows of a table as a frame of the type, without columns that the type does not allow."""
    assert issubclass(kind.base, Frame)
    if not table.num_rows:  # the column types of an empty table mean nothing
        return kind.base.empty(marks=kind.marks)
    return kind.base(table.select(columns_of(kind, table)), marks=kind.marks)


def columns_of(kind: EdgeType, table: pa.Table) -> list[str]:
    """List the columns of a table that rows of a type may have."""
    return list(filter(column_filter(kind), table.column_names))


def concat_rows(parts: Sequence[StoredRows]) -> StoredRows:
    """Concatenate rows in the order of their peer rounds, with the columns that all parts have."""
    nonempty = [rows for rows in parts if rows.table.num_rows] or list(parts[:1])
    names = [
        name for name in nonempty[0].table.column_names if all(name in rows.table.column_names for rows in nonempty)
    ]
    peer_round = np.concatenate([rows.peer_round for rows in nonempty])
    table = pa.concat_tables([rows.table.select(names) for rows in nonempty])
    if (np.diff(peer_round) >= 0).all():
        return StoredRows(table, peer_round)
    order = np.argsort(peer_round, kind="stable")
    return StoredRows(table.take(pa.array(order)), peer_round[order])


def _by_socket(part: Part) -> list[Edge]:
    """Return the incoming edges in the order of the node's inputs; a graph file may list them in another order."""
    sockets = part.cls.signature.inputs if part.cls is not None and issubclass(part.cls, Node) else ()
    order = {socket.name: at for at, socket in enumerate(sockets)}
    return sorted(part.edges(), key=lambda edge: order.get(edge.socket, 0))


def with_input_columns(own: StoredRows, inputs: Sequence[StoredRows]) -> StoredRows:
    """Add to stored rows the columns that the inputs of the same peer round have for their ids.

    Peer rounds in which the inputs match the rows in different ways are joined apart, each as a step of its own.
    """
    numbers = np.unique(own.peer_round)
    inputs = [
        rows.where(np.isin(rows.peer_round, numbers))
        for rows in inputs
        if rows.table.num_rows and "id" in rows.table.column_names
    ]
    if not len(numbers) or not inputs:
        return own
    keys, keyed = own.keys(), [InputRows(rows.keys(), rows.table) for rows in inputs]
    matches = [_row_matches(own, keys, rows, input.keys) for rows, input in zip(inputs, keyed, strict=True)]
    patterns, pattern_of = np.unique(np.stack(matches, axis=1), axis=0, return_inverse=True)
    if len(patterns) == 1:
        return StoredRows(pa.table(with_inherited(own.table, InheritedColumns(keys, keyed))), own.peer_round)
    subsets = [numbers[pattern_of.reshape(-1) == pattern] for pattern in range(len(patterns))]
    return concat_rows([with_input_columns(own.where(np.isin(own.peer_round, subset)), inputs) for subset in subsets])


def _row_matches(
    own: StoredRows, keys: pa.ChunkedArray, other: StoredRows, other_keys: pa.ChunkedArray
) -> NDArray[np.int8]:
    """Return per peer round 2 where `other` has the same rows in the same order, 1 where it has all of them, else 0."""
    numbers, starts, counts = np.unique(own.peer_round, return_index=True, return_counts=True)
    if keys.equals(other_keys):
        return np.full(len(numbers), 2, np.int8)
    present = pc.is_valid(pc.index_in(keys, value_set=other_keys.combine_chunks())).to_numpy()
    first, last = (np.searchsorted(other.peer_round, numbers, side=side) for side in ("left", "right"))
    same_count = last - first == counts
    at = np.flatnonzero(np.repeat(same_count, counts))
    other_at = at + np.repeat(first - starts, counts)[at]
    same = np.zeros(len(own.peer_round), dtype=bool)
    same[at] = pc.equal(keys.take(pa.array(at)), other_keys.take(pa.array(other_at))).to_numpy()
    return np.logical_and.reduceat(present, starts).astype(np.int8) + np.logical_and.reduceat(same, starts)
