"""The rows of outputs put together again, for many rounds at once: what steps stored, and what their inputs had.

`records.write` says what is stored, and `records.rebuild` makes the outputs of one step again while a run goes on;
this needs no inputs at hand, for it follows the edges of the graph. Both find columns as `inherited` says.
"""

import json
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
from genrl_graph.records.inherit import IN_FULL, ORIGIN, InheritedColumns, InputRows, allowed_in, placed, with_inherited
from genrl_graph.records.write import EVAL_PREFIX, is_whole
from genrl_graph.store.run_store import RunStore


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows, and for each the number of the turn (one peer's round) that committed it."""

    table: pa.Table
    turn: NDArray[np.int64]

    def keys(self) -> pa.ChunkedArray:
        """A text a row: turn and id. One peer may hold an id in two rounds, two peers in one."""
        turns, ids = pc.cast(pa.array(self.turn), pa.string()), pc.cast(self.table.column("id"), pa.string())
        return pc.binary_join_element_wise(pa.chunked_array([turns]), ids, " ")

    def where(self, mask: NDArray[np.bool_]) -> "StoredRows":
        """The rows at which the mask holds."""
        return self if mask.all() else StoredRows(self.table.filter(pa.array(mask)), self.turn[mask])

    def by_turn(self) -> dict[int, pa.Table]:
        """The rows of each turn."""
        assert (np.diff(self.turn) >= 0).all(), "a run commits turn after turn"
        turns, starts, counts = np.unique(self.turn, return_index=True, return_counts=True)
        spans = zip(turns.tolist(), starts.tolist(), counts.tolist(), strict=True)
        return {turn: self.table.slice(start, count) for turn, start, count in spans}

    def without(self, names: Sequence[str]) -> "StoredRows":
        """The rows without these columns."""
        return StoredRows(
            self.table.drop_columns([name for name in names if name in self.table.column_names]), self.turn
        )


class Snapshot:
    """What a run folder holds of some rounds, and of one holder if asked: everything committed when it was made.

    `turns` lists (round, holder) by number. Rows that a writer commits later are left out, so all is of one moment.
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
        self._known: dict[str, StoredRows] = {}
        steps = store.steps(rounds)  # before any rows: what is committed from now on stands behind these
        numbers: dict[tuple[int, str], int] = {}
        self._counts: dict[str, list[tuple[int, int]]] = {}  # of each group: turn and rows of its records, in order
        self._facts: dict[tuple[str, int], str] = {}
        columns = (steps.column(name).to_pylist() for name in ("round", "holder", "node", "rows", "facts"))
        for number, name, node, rows, facts in zip(*columns, strict=True):
            turn = numbers.setdefault((number, name), len(numbers))
            self._facts[node, turn] = facts
            for group, count in json.loads(rows).items():
                self._counts.setdefault(group, []).append((turn, count))
        self.turns = list(numbers)
        self._wanted = np.asarray([holder in (None, name) for _, name in self.turns], dtype=bool)

    def joined(self, ref: str) -> StoredRows | None:
        """The rows of an output (`node` or `node.field`, in an evaluation `eval/node`) with all their columns."""
        if ref not in self._known:
            rows = self._join(ref)
            if rows is None:
                return None
            self._known[ref] = rows
        return self._known[ref]

    def _stored(self, group: str) -> StoredRows | None:
        """The rows of a group as they are stored, None where there is no such group."""
        if group not in self._counts:
            return None
        turns, counts = np.asarray(self._counts[group], dtype=np.int64).T
        turn = np.repeat(turns, counts)
        return StoredRows(self._store.table(group, self._rounds).slice(0, len(turn)), turn).where(self._wanted[turn])

    def _join(self, ref: str) -> StoredRows | None:
        bare = ref.removeprefix(EVAL_PREFIX)
        prefix, group = ref[: len(ref) - len(bare)], ref.replace(".", "/")
        part, rows = self._graph.nodes[bare.partition(".")[0]], self._stored(group)
        if rows is None:
            return None
        kind, names = part.type_name.partition(".")[0], rows.table.column_names
        in_full = self._stored(f"{group}/{IN_FULL}")
        if in_full is not None:
            rows = rows.where(~np.isin(rows.turn, in_full.turn))
        if is_whole(kind, names):
            rows = rows.without(self._added(bare))
            rows = self._exchanged(rows, bare, part, prefix) if kind == "exchange" else rows
        else:
            rows = completed(rows, [given for edge in _by_socket(part) if (given := self._input(edge, prefix))])
        return rows if in_full is None else laid_together([rows, in_full.without(self._added(bare))])

    def _input(self, edge: Edge, prefix: str) -> StoredRows | None:
        return self.joined(prefix + edge.ref) if edge.origin in self._graph.nodes else None

    def _added(self, ref: str) -> list[str]:
        """The columns of whole rows that are the store's, not the frame's."""
        given = self._types.get(ref)
        if given is None or not issubclass(given.base, Frame):
            return []
        declared = given.base.declared(given.marks)
        return [name for name in ORIGIN if name not in declared]

    def _exchanged(self, external: StoredRows, ref: str, part: Part, prefix: str) -> StoredRows:
        """What an exchange gave: the rows of others, which it stored, and those of the own offer at their places."""
        tables = external.by_turn()
        given = {edge.ref: rows.by_turn() for edge in part.edges() if (rows := self._input(edge, prefix)) is not None}
        for turn in np.flatnonzero(self._wanted).tolist():
            facts = json.loads(self._facts.get((prefix + part.name, turn), "{}"))
            if own := facts.get("own_rows", {}).get(ref):
                offer = self._offer(part, {name: rows[turn] for name, rows in given.items() if turn in rows})
                tables[turn] = placed(tables.get(turn, external.table.slice(0, 0)), offer, own)
        parts = [StoredRows(tables[turn], np.full(tables[turn].num_rows, turn, np.int64)) for turn in sorted(tables)]
        return laid_together([*parts, external.where(external.turn < 0)])

    def _offer(self, part: Part, given: Mapping[str, pa.Table]) -> pa.Table:
        """What an exchange offered, of the rows that it read; without its class, or a param of it, all that it read."""
        offer = getattr(part.declared, "offer", None)
        if offer is None:
            return next(iter(given.values()))
        frames = {
            ref: typed(self._types[ref], given.get(ref, pa.table({}))) for ref in {edge.ref for edge in part.edges()}
        }
        frame: Frame = offer(**part.bind(frames))
        return frame.table


def typed(kind: EdgeType, table: pa.Table) -> Frame:
    """The rows of a table as the type says; columns that it does not have are left out."""
    assert issubclass(kind.base, Frame)
    if not table.num_rows:  # without rows a table has no types worth a word
        return kind.base.empty(marks=kind.marks)
    return kind.base(table.select(columns_of(kind, table)), marks=kind.marks)


def columns_of(kind: EdgeType, table: pa.Table) -> list[str]:
    """The columns of a table that rows of a type have."""
    return list(filter(allowed_in(kind), table.column_names))


def laid_together(parts: Sequence[StoredRows]) -> StoredRows:
    """All rows in the order of their turns, with the columns that all of them have."""
    full = [rows for rows in parts if rows.table.num_rows] or list(parts[:1])
    names = [name for name in full[0].table.column_names if all(name in rows.table.column_names for rows in full)]
    turn = np.concatenate([rows.turn for rows in full])
    table = pa.concat_tables([rows.table.select(names) for rows in full])
    if (np.diff(turn) >= 0).all():
        return StoredRows(table, turn)
    order = np.argsort(turn, kind="stable")
    return StoredRows(table.take(pa.array(order)), turn[order])


def _by_socket(part: Part) -> list[Edge]:
    """The incoming edges in the order of the node's inputs, which a file may write in any other."""
    sockets = part.cls.signature.inputs if part.cls is not None and issubclass(part.cls, Node) else ()
    order = {socket.name: at for at, socket in enumerate(sockets)}
    return sorted(part.edges(), key=lambda edge: order.get(edge.socket, 0))


def completed(own: StoredRows, inputs: Sequence[StoredRows]) -> StoredRows:
    """The stored columns of rows and, by id, those that the inputs of the same turn hold of them."""
    turns = np.unique(own.turn)
    given = [
        rows.where(np.isin(rows.turn, turns))
        for rows in inputs
        if rows.table.num_rows and "id" in rows.table.column_names
    ]
    if not len(turns) or not given:
        return own
    keys, theirs = own.keys(), [InputRows(rows.keys(), rows.table) for rows in given]
    fits = [_fit(own, keys, rows, input.keys) for rows, input in zip(given, theirs, strict=True)]
    kinds, kind_of = np.unique(np.stack(fits, axis=1), axis=0, return_inverse=True)
    if len(kinds) == 1:
        return StoredRows(pa.table(with_inherited(own.table, InheritedColumns(keys, theirs))), own.turn)
    alike = [turns[kind_of.reshape(-1) == kind] for kind in range(len(kinds))]  # each as if it were one step
    return laid_together([completed(own.where(np.isin(own.turn, some)), given) for some in alike])


def _fit(own: StoredRows, keys: pa.ChunkedArray, given: StoredRows, theirs: pa.ChunkedArray) -> NDArray[np.int8]:
    """For each turn 2 where an input has the same rows in the same order, 1 where it has all of them, else 0."""
    turns, starts, counts = np.unique(own.turn, return_index=True, return_counts=True)
    if keys.equals(theirs):
        return np.full(len(turns), 2, np.int8)
    held = pc.is_valid(pc.index_in(keys, value_set=theirs.combine_chunks())).to_numpy()
    first, last = (np.searchsorted(given.turn, turns, side=side) for side in ("left", "right"))
    many = last - first == counts
    at = np.flatnonzero(np.repeat(many, counts))
    there = at + np.repeat(first - starts, counts)[at]
    same = np.zeros(len(own.turn), dtype=bool)
    same[at] = pc.equal(keys.take(pa.array(at)), theirs.take(pa.array(there))).to_numpy()
    return np.logical_and.reduceat(held, starts).astype(np.int8) + np.logical_and.reduceat(same, starts)
