"""Read a run, finished or being written: typed rows of any node, metrics, facts and failures."""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.dag.graph import Graph
from genrl_graph.dag.infer import infer
from genrl_graph.dag.problems import Problem
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ParamError, StoreError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import Loaded, read_document, refuse_newer
from genrl_graph.messages import did_you_mean
from genrl_graph.records.facts import read_facts
from genrl_graph.records.join import Snapshot, as_frame, columns_of
from genrl_graph.records.write import EVAL_PREFIX
from genrl_graph.store.metrics_file import read_metrics
from genrl_graph.store.peer_folders import first_damage, run_folders, stored_holders
from genrl_graph.store.run_folder import GRAPH, LOCK, ROLLOUTS, missing_run
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.run_store import RunStore
from genrl_graph.store.view import rows_of_step

Rounds = range | int | None
"""A range of rounds, one round, or None for all."""


def open_run(path: Path | str) -> "StoredRun":
    """Open a run for reading; the folder of a run with one process per peer has one sub-folder per peer.

    Raises `StoreError` where there is no run.
    """
    folder = Path(path)
    folders = run_folders(folder)
    if not folders:
        damage = first_damage(folder)
        raise StoreError(f"{missing_run(folder)}{damage and f'; {damage}'}")
    return StoredRun(folder, [RunStore.open(path) for path in folders])


def writer_of(folder: Path) -> int | None:
    """Return the id of the process that writes a run folder, or None."""
    try:
        with os.fdopen((RunPath(folder) / LOCK).open(os.O_RDONLY), "rb") as file:
            holder = file.read(32).strip()
            if not holder.isdigit():
                return None
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return int(holder)
    return None  # the process was killed, and its id stayed in the file


class StoredRun:
    """A run, read from its folder. Every call reads what is committed at that moment, and whole commits only.

    Nodes are named as in the graph: `answer`, `halves.low` for one of several outputs, `eval/answer` for evaluations,
    whose round is the number of rounds trained before.
    """

    def __init__(self, folder: Path, stores: Sequence[RunStore]) -> None:
        self.folder = folder
        self._stores = list(stores)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def folders(self) -> list[Path]:
        """The run folder, or that of each peer process."""
        return [store.folder for store in self._stores]

    @property
    def stores(self) -> Sequence[RunStore]:
        """The store of the run folder, or those of the peer processes."""
        return self._stores

    @property
    def versions(self) -> Mapping[str, Any]:
        """The versions of the software that ran it; where each peer was a process, those of the first."""
        return self._stores[0].versions

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Let all calls of the block see what is committed as it begins, which they then need not look for."""
        with ExitStack() as stores:
            for store in self._stores:
                stores.enter_context(store.pinned())
            yield

    @property
    def graph(self) -> Graph:
        """The graph that ran; node types that are not registered here stay unknown, and only `frame` needs them.

        Raises `StoreError` where it is written in a newer version of graph files.
        """
        return self._loaded.graph

    @property
    def problems(self) -> Sequence[Problem]:
        """The problems of the graph, such as node types that are not registered here."""
        return self._loaded.problems

    @cached_property
    def _loaded(self) -> Loaded:
        store = self._stores[0]
        document = parse_document(store.graph_yaml, file=str(store.folder / GRAPH))
        refuse_newer(document.values, store.folder / GRAPH)
        return read_document(document, folder=store.folder)

    @cached_property
    def _parts(self) -> list[Graph]:
        """The part of the graph that each store's roles play: processes of one run may have roles of their own."""
        return [self.graph.played_by(_roles(store)) for store in self._stores]

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return list(self.graph.nodes)

    @property
    def played_nodes(self) -> list[str]:
        """The names of the nodes that the roles of its peers play."""
        return [name for name in self.graph.nodes if any(name in part.nodes for part in self._parts)]

    def row_outputs(self) -> list[str]:
        """List the outputs of nodes that are rows and of which some are stored, `node` or `node.field`."""
        known = {name for name, kind in self._types.items() if issubclass(kind.base, Frame)}
        stored = set(self.groups)
        nodes = [name for name in self._types if name.partition(".")[0] in self.graph.nodes]
        return [name for name in nodes if name in known and name.replace(".", "/") in stored]

    @property
    def groups(self) -> list[str]:
        """The names of the groups of stored rows, in the order in which they appeared."""
        return list(dict.fromkeys(group for store in self._stores for group in store.groups()))

    @property
    def peers(self) -> list[str]:
        """The names of the peers whose steps are stored, sorted."""
        return sorted(set().union(*map(stored_holders, self._stores)))

    @property
    def rounds(self) -> list[int]:
        """The rounds of which at least one peer has committed every node that its roles play, sorted."""
        played: set[int] = set()
        for store, part in zip(self._stores, self._parts, strict=True):
            nodes = part.played_in("rounds").nodes
            steps = store.steps().select(["round", "node", "holder"])
            steps = steps.filter(pc.invert(pc.starts_with(steps.column("node"), EVAL_PREFIX)))
            peer_rounds = steps.group_by(["round", "holder"]).aggregate([("node", "count_distinct")])
            complete = pc.equal(peer_rounds.column("node_count_distinct"), len(nodes))
            played.update(peer_rounds.filter(complete).column("round").to_pylist())
        return sorted(played)

    def steps(self, rounds: Rounds = None) -> pa.Table:
        """Return one row for each committed step: round, node, holder, rows by group (JSON), facts (JSON), digest."""
        return pa.concat_tables([store.steps(_range(rounds)) for store in self._stores])

    def table(self, group: str, rounds: Rounds = None) -> pa.Table:
        """Return the rows of a group as they are stored: in full where the node made them, else ids and new columns.

        Raises `ParamError` for a group that the run does not have.
        """
        stores = [store for store in self._stores if group in store.groups()]
        if not stores:
            hint = did_you_mean(group, self.groups) or f"; it has {', '.join(self.groups) or 'none'}"
            raise ParamError(f"{self.folder}: no group {group!r}{hint}")
        tables = [store.table(group, _range(rounds)) for store in stores]
        return pa.concat_tables([table for table in tables if table.num_rows] or tables[:1])

    def columns(self, group: str, names: Sequence[str]) -> pa.Table:
        """Read some columns of all rows of a group, without reading the others."""
        return pa.concat_tables([_columns(store, group, names) for store in self._stores if group in store.groups()])

    def frame(self, node: str, rounds: Rounds = None, *, holder: str | None = None) -> Frame:
        """Return the rows that a node gave, with all their columns, as the type that its output declares.

        Rows are sorted by round, then by holder; those of one holder keep the order in which the node gave them.
        Raises `ParamError` for a node, holder or rounds that the run does not have, and for a node type not registered
        here.
        """
        kind = self._output_type(node)
        self.require_rounds(rounds)
        return as_frame(kind, self._rows(node, kind, rounds, holder))

    def blocks(
        self, node: str, rounds: Rounds = None, *, holder: str | None = None, rows: int = 4096
    ) -> Iterator[pa.Table]:
        """Yield the rows of `frame` as tables of whole rounds with about `rows` rows, plus `round` and `holder`."""
        kind = self._output_type(node)
        self.require_rounds(rounds)
        for span in self.spans(node, rounds, rows=rows):
            table = self._rows(node, kind, span, holder)
            if table.num_rows:
                yield table.select(list(dict.fromkeys([*columns_of(kind, table), "round", "holder"])))

    def spans(self, node: str, rounds: Rounds = None, *, rows: int = 4096) -> Iterator[range]:
        """Yield ranges of rounds, each with about `rows` rows of a node, that cover all rounds with rows of it."""
        group = node.replace(".", "/")
        counts: dict[int, int] = {}
        steps = self.steps(rounds)
        for number, text in zip(steps.column("round").to_pylist(), steps.column("rows").to_pylist(), strict=True):
            if group in (rows_by_group := rows_of_step(text, self.folder)):
                counts[number] = counts.get(number, 0) + rows_by_group[group]
        start, total = None, 0
        for number in sorted(counts):
            start = number if start is None else start
            total += counts[number]
            if total >= rows:
                yield range(start, number + 1)
                start, total = None, 0
        if start is not None:
            yield range(start, max(counts) + 1)

    def require_rounds(self, rounds: Rounds) -> None:
        """Raise `ParamError` where no step of these rounds is stored; a range may reach beyond the last one."""
        if rounds is None:
            return
        stored = self.steps().column("round").unique().to_pylist()
        wanted = _range(rounds)
        assert wanted is not None
        if not any(number in wanted for number in stored):
            open_end = wanted.stop == 2**31
            asked = f"{wanted.start}" if len(wanted) == 1 else f"{wanted.start}:{'' if open_end else wanted.stop}"
            has = f"it has the rounds {min(stored)} to {max(stored)}" if stored else "no step is stored yet"
            raise ParamError(f"{self.folder}: no round {asked}; {has}")

    def metrics(self) -> pa.Table:
        """Return the metrics of all rounds: `round`, `peer` and one column per metric, null where not reported."""
        return read_metrics(self.folders)

    def evaluations(self) -> pa.Table:
        """Return the metrics of evaluations in the same form; `round` is the number of rounds trained before."""
        return read_metrics(self.folders, evaluations=True)

    def facts(self, node: str, round: int) -> dict[str, dict[str, Any]]:
        """Return the facts that a node's steps journaled in a round, by holder."""
        self._check_node(node)
        self.require_rounds(round)
        steps = self.steps(round)
        steps = steps.filter(pc.equal(steps.column("node"), node))
        return {
            row["holder"]: read_facts(row["facts"], self.folder)
            for row in steps.select(["holder", "facts"]).to_pylist()
        }

    def failures(self, node: str, rounds: Rounds = None) -> pa.Table:
        """Return the rows that failed at a node, or that it could not judge: id, reason, round, holder."""
        self._check_node(node)
        self.require_rounds(rounds)
        failures = [_NO_ROWS]
        if f"{node}/failures" in (groups := self.groups):
            failures.append(self.table(f"{node}/failures", rounds).select(_NO_ROWS.column_names))
        if node in groups:
            rows = self.table(node, rounds)
            if {"id", "finish_reason", "error"} <= set(rows.column_names) and rows.num_rows:
                failed = rows.filter(pc.equal(rows.column("finish_reason"), "failed"))
                columns = failed.select(["id", "error", "round", "holder"])
                failures.append(columns.rename_columns(_NO_ROWS.column_names))
        return pa.concat_tables([table.cast(_NO_ROWS.schema) for table in failures])

    def _rows(self, node: str, kind: EdgeType, rounds: Rounds, holder: str | None) -> pa.Table:
        """Return the joined rows of all stores, sorted by round; rows without `round` or `holder` get the record's."""
        tables, numbers = [], []
        for store in self._stores:
            snapshot = Snapshot(store, self.graph, self._types, rounds=_range(rounds), holder=holder)
            joined = snapshot.joined(node)
            if joined is None or not joined.table.num_rows:
                continue
            table = joined.table.select(columns_of(kind, joined.table))
            round_of = np.asarray([number for number, _ in snapshot.peer_rounds], np.int32)[joined.peer_round]
            numbers.append(round_of)
            holders = pa.array([name for _, name in snapshot.peer_rounds]).take(pa.array(joined.peer_round))
            for name, column in {"round": pa.array(round_of), "holder": holders}.items():
                table = table if name in table.column_names else table.append_column(name, column)
            tables.append(table)
        if not tables:
            if holder is not None and holder not in (peers := self.peers):
                hint = did_you_mean(holder, peers) or f"; peers: {', '.join(peers) or 'none'}"
                raise ParamError(f"{self.folder}: no peer named {holder!r}{hint}")
            return pa.table({})
        names = [name for name in tables[0].column_names if all(name in table.column_names for table in tables)]
        rows = pa.concat_tables([table.select(names) for table in tables])
        return rows if len(tables) == 1 else rows.take(pa.array(np.argsort(np.concatenate(numbers), kind="stable")))

    @cached_property
    def _types(self) -> dict[str, EdgeType]:
        return infer(self.graph)

    def _output_type(self, node: str) -> EdgeType:
        """Return the type of the rows that a node gives; raises `ParamError` where it gives none or is unknown."""
        ref = node.removeprefix(EVAL_PREFIX)
        kind = self._types.get(ref)
        if kind is not None and issubclass(kind.base, Frame):
            return kind
        self._check_node(node)
        fields = [name for name in self._types if name.startswith(f"{ref}.")]
        if kind is not None:
            raise ParamError(f"{self.folder}: {node} gives {kind}, which is no rows; see `metrics` and `facts`")
        if fields:
            raise ParamError(f"{self.folder}: {node} has several outputs; name one of {', '.join(fields)}")
        for part in self.graph.nodes.values():
            if part.cls is None:
                scripts = ", ".join(self.versions.get("imports", {})) or "the script that defines it"
                raise ParamError(f"{self.folder}: type {part.type_name!r} is not known here; import {scripts}")
        raise ParamError(f"{self.folder}: {node} gives no rows")

    def _check_node(self, node: str) -> None:
        """Raise `ParamError` for a name that is neither a node nor an output of one."""
        ref = node.removeprefix(EVAL_PREFIX)
        fields = [name for name in self._types if "." in name]
        if ref not in self.graph.nodes and ref not in fields:
            hint = did_you_mean(ref, [*self.graph.nodes, *fields]) or f"; it has {', '.join(self.graph.nodes)}"
            raise ParamError(f"{self.folder}: no node named {ref!r}{hint}")


_NO_ROWS = pa.table(
    {"id": pa.array([], pa.string()), "reason": pa.array([], pa.string())}
    | {"round": pa.array([], pa.int32()), "holder": pa.array([], pa.string())}
)


def _roles(store: RunStore) -> Sequence[str]:
    run = parse_document(store.graph_yaml, file=str(store.folder / GRAPH)).values.get("run") or {}
    return run.get("roles") or ()


def _range(rounds: Rounds) -> range | None:
    return range(rounds, rounds + 1) if isinstance(rounds, int) else rounds


def _columns(store: RunStore, group: str, names: Sequence[str]) -> pa.Table:
    """Read some columns of a group: from the arrays, then the rows that the arrays do not have yet."""
    from genrl_graph.store.arrays import RolloutArrays

    steps = store.steps().select(["round", "rows"]).to_pylist()
    counts = [rows_of_step(step["rows"], store.folder).get(group, 0) for step in steps]
    arrays = RolloutArrays(RunPath(store.folder) / ROLLOUTS)
    published = min(arrays.counts.get(group, 0), sum(counts))
    parts = [arrays.read(group, 0, published, columns=tuple(names))] if published else []
    if pending := sum(counts) - published:  # in the journal, or moved to the arrays since
        ends = np.cumsum(counts)
        first = steps[int(np.searchsorted(ends, published, side="right"))]["round"]
        rows = store.table(group, range(first, 2**31))
        committed = sum(count for step, count in zip(steps, counts, strict=True) if step["round"] >= first)
        parts.append(rows.slice(committed - pending, pending).select(list(names)))
    return pa.concat_tables(parts) if parts else store.table(group, range(0)).select(list(names))
