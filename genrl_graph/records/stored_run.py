"""Reads a run, finished or being written: typed rows of any node, metrics, facts and failures. Nothing is changed."""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.dag.graph import Graph
from genrl_graph.dag.infer import infer
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ParamError, StoreError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document, refuse_newer
from genrl_graph.messages import did_you_mean
from genrl_graph.records.join import Snapshot, columns_of, typed
from genrl_graph.records.write import EVAL_PREFIX
from genrl_graph.store.metrics_file import read_metrics
from genrl_graph.store.run_folder import GRAPH, LOCK, ROLLOUTS
from genrl_graph.store.run_store import RunStore

Rounds = range | int | None
"""Some rounds, one, or all."""


def open_run(path: Path | str) -> "StoredRun":
    """A run to read; also one of several processes, whose folder holds a folder a peer.

    Raises `StoreError` where there is no run.
    """
    folder = Path(path)
    folders = run_folders(folder)
    if not folders:
        inner = _runs_in(folder)
        hint = f"; it holds the runs {', '.join(inner[:5])}" if inner else ""
        close = did_you_mean(folder.name, _runs_in(folder.parent))
        raise StoreError(f"{folder}: no run here, {GRAPH} is missing{hint or close}")
    return StoredRun(folder, [RunStore.open(found) for found in folders])


def run_folders(folder: Path) -> list[Path]:
    """The folders of a run: itself, or one a peer where each peer was a process; none where this is no run.

    The folder of a peer is told from a run among others by what it holds: rows of the peer that it is named after.
    """
    if (folder / GRAPH).exists():
        return [folder]
    inner = sorted(found.parent for found in folder.glob(f"*/{GRAPH}"))
    any_peer = False
    for found in inner:
        try:
            holders = _holders(RunStore.open(found))
        except StoreError:
            return []
        if not holders <= {found.name}:
            return []
        any_peer |= bool(holders)
    return inner if any_peer else []


def writer_of(folder: Path) -> int | None:
    """The id of the process that writes a run folder, or None."""
    try:
        with (folder / LOCK).open("rb") as file:
            holder = file.read(32).strip()
            if not holder.isdigit():
                return None
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return int(holder)
    return None  # it was killed, and its name stayed behind


class StoredRun:
    """A run, read from its folder. Every call reads anew what is committed by then, never a torn row.

    Nodes are named as in the graph: `answer`, `halves.low` for a field of several outputs, `eval/answer` in the
    evaluations, where a round is the number of rounds trained before.
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
    def versions(self) -> Mapping[str, Any]:
        """The versions of what ran it; where each peer was a process, of the first."""
        return self._stores[0].versions

    @cached_property
    def graph(self) -> Graph:
        """The graph that ran. Types that are not known here stay unknown in it, and only `frame` misses them.

        Raises `StoreError` where it is written in a newer version.
        """
        store = self._stores[0]
        document = parse_document(store.graph_yaml, file=str(store.folder / GRAPH))
        refuse_newer(document.values, store.folder / GRAPH)
        return read_document(document, folder=store.folder).graph

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return list(self.graph.nodes)

    @property
    def groups(self) -> list[str]:
        """The names of the groups of stored rows, in the order in which they appeared."""
        return list(dict.fromkeys(group for store in self._stores for group in store.groups()))

    @property
    def peers(self) -> list[str]:
        """The names of the peers whose steps are stored, sorted."""
        return sorted(set().union(*map(_holders, self._stores)))

    @property
    def rounds(self) -> list[int]:
        """The rounds that a peer has played to their end."""
        played: set[int] = set()
        for store in self._stores:
            steps = store.steps().select(["round", "node", "holder"])
            steps = steps.filter(pc.invert(pc.starts_with(steps.column("node"), EVAL_PREFIX)))
            turns = steps.group_by(["round", "holder"]).aggregate([("node", "count_distinct")])
            whole = pc.equal(turns.column("node_count_distinct"), len(self.graph.nodes))
            played.update(turns.filter(whole).column("round").to_pylist())
        return sorted(played)

    def steps(self, rounds: Rounds = None) -> pa.Table:
        """One row for each committed step: round, node, holder, rows by group (JSON), facts (JSON), digest."""
        return pa.concat_tables([store.steps(_range(rounds)) for store in self._stores])

    def table(self, group: str, rounds: Rounds = None) -> pa.Table:
        """The rows of a group as they are stored: those that came into being there in full, else ids and new columns.

        Raises `ParamError` for a group that the run does not have.
        """
        having = [store for store in self._stores if group in store.groups()]
        if not having:
            hint = did_you_mean(group, self.groups) or f"; it has {', '.join(self.groups) or 'none'}"
            raise ParamError(f"{self.folder}: no group {group!r}{hint}")
        tables = [store.table(group, _range(rounds)) for store in having]
        return pa.concat_tables([table for table in tables if table.num_rows] or tables[:1])

    def columns(self, group: str, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows of a group, read without the others."""
        return pa.concat_tables([_columns(store, group, names) for store in self._stores if group in store.groups()])

    def frame(self, node: str, rounds: Rounds = None, *, holder: str | None = None) -> Frame:
        """The rows that a node gave, with all their columns, as the type that its output declares.

        Rows stand in the order of rounds and, in each, of holders; an exchange's by name of the peer. Raises
        `ParamError` for a node or holder that the run does not have, and for a type that is not known here.
        """
        given = self._type(node)
        return typed(given, self._rows(node, given, rounds, holder))

    def blocks(
        self, node: str, rounds: Rounds = None, *, holder: str | None = None, rows: int = 4096
    ) -> Iterator[pa.Table]:
        """The rows of `frame` as tables of whole rounds, of about so many `rows`; they keep `round` and `holder`."""
        given = self._type(node)
        for span in self.spans(node, rounds, rows=rows):
            table = self._rows(node, given, span, holder)
            if table.num_rows:
                yield table.select(list(dict.fromkeys([*columns_of(given, table), "round", "holder"])))

    def spans(self, node: str, rounds: Rounds = None, *, rows: int = 4096) -> Iterator[range]:
        """The rounds in which a node gave rows, cut into ranges of about so many rows."""
        group = node.replace(".", "/")
        counts: dict[int, int] = {}
        steps = self.steps(rounds)
        for number, given in zip(steps.column("round").to_pylist(), steps.column("rows").to_pylist(), strict=True):
            if group in (found := json.loads(given)):
                counts[number] = counts.get(number, 0) + found[group]
        start, total = None, 0
        for number in sorted(counts):
            start = number if start is None else start
            total += counts[number]
            if total >= rows:
                yield range(start, number + 1)
                start, total = None, 0
        if start is not None:
            yield range(start, max(counts) + 1)

    def metrics(self) -> pa.Table:
        """What was measured: `round`, `peer` and a column a metric, null where it was not reported."""
        return read_metrics(self.folders)

    def evaluations(self) -> pa.Table:
        """What the evaluations measured, in the same form; `round` is the number of rounds trained before."""
        return read_metrics(self.folders, evaluations=True)

    def facts(self, node: str, round: int) -> dict[str, dict[str, Any]]:
        """The facts that a node's step journaled in a round, by holder."""
        self._known(node)
        steps = self.steps(round)
        steps = steps.filter(pc.equal(steps.column("node"), node))
        return {row["holder"]: json.loads(row["facts"]) for row in steps.select(["holder", "facts"]).to_pylist()}

    def failures(self, node: str, rounds: Rounds = None) -> pa.Table:
        """The rows that failed at a node, or that it could not judge: id, reason, round, holder."""
        self._known(node)
        found = [_NO_FAILURES]
        if f"{node}/failures" in (groups := self.groups):
            found.append(self.table(f"{node}/failures", rounds).select(_NO_FAILURES.column_names))
        if node in groups:
            made = self.table(node, rounds)
            if {"id", "finish", "error"} <= set(made.column_names) and made.num_rows:
                lost = made.filter(pc.equal(made.column("finish"), "failed"))
                found.append(lost.select(["id", "error", "round", "holder"]).rename_columns(_NO_FAILURES.column_names))
        return pa.concat_tables([table.cast(_NO_FAILURES.schema) for table in found])

    def _rows(self, node: str, given: EdgeType, rounds: Rounds, holder: str | None) -> pa.Table:
        """The joined rows, with `round` and `holder` of the record where the rows have none of their own."""
        tables, numbers = [], []
        for store in self._stores:
            snapshot = Snapshot(store, self.graph, self._types, rounds=_range(rounds), holder=holder)
            joined = snapshot.joined(node)
            if joined is None or not joined.table.num_rows:
                continue
            kept = joined.table.select(columns_of(given, joined.table))
            origin = {"round": np.asarray([number for number, _ in snapshot.turns], np.int32)[joined.turn]}
            numbers.append(origin["round"])
            holders = pa.array([name for _, name in snapshot.turns]).take(pa.array(joined.turn))
            for name, column in {"round": pa.array(origin["round"]), "holder": holders}.items():
                kept = kept if name in kept.column_names else kept.append_column(name, column)
            tables.append(kept)
        if not tables:
            if holder is not None and holder not in (peers := self.peers):
                hint = did_you_mean(holder, peers) or f"; peers: {', '.join(peers) or 'none'}"
                raise ParamError(f"{self.folder}: no peer named {holder!r}{hint}")
            return pa.table({})
        names = [name for name in tables[0].column_names if all(name in table.column_names for table in tables)]
        whole = pa.concat_tables([table.select(names) for table in tables])
        return whole if len(tables) == 1 else whole.take(pa.array(np.argsort(np.concatenate(numbers), kind="stable")))

    @cached_property
    def _types(self) -> dict[str, EdgeType]:
        return infer(self.graph)

    def _type(self, node: str) -> EdgeType:
        ref = node.removeprefix(EVAL_PREFIX)
        given = self._types.get(ref)
        if given is not None and issubclass(given.base, Frame):
            return given
        self._known(node)
        fields = [name for name in self._types if name.startswith(f"{ref}.")]
        if given is not None:
            raise ParamError(f"{self.folder}: {node} gives {given}, which is no rows; see `metrics` and `facts`")
        if fields:
            raise ParamError(f"{self.folder}: {node} has several outputs; name one of {', '.join(fields)}")
        for part in self.graph.nodes.values():
            if part.cls is None:
                scripts = ", ".join(self.versions.get("imports", {})) or "the script that defines it"
                raise ParamError(f"{self.folder}: type {part.type_name!r} is not known here; import {scripts}")
        raise ParamError(f"{self.folder}: {node} gives no rows")

    def _known(self, node: str) -> None:
        """Raise `ParamError` for a name that is no node, or no output of one."""
        ref = node.removeprefix(EVAL_PREFIX)
        fields = [name for name in self._types if "." in name]
        if ref not in self.graph.nodes and ref not in fields:
            hint = did_you_mean(ref, [*self.graph.nodes, *fields]) or f"; it has {', '.join(self.graph.nodes)}"
            raise ParamError(f"{self.folder}: no node named {ref!r}{hint}")


_NO_FAILURES = pa.table(
    {"id": pa.array([], pa.string()), "reason": pa.array([], pa.string())}
    | {"round": pa.array([], pa.int32()), "holder": pa.array([], pa.string())}
)


def _runs_in(folder: Path) -> list[str]:
    """The names in a folder that look like runs."""
    found = [*folder.glob(f"*/{GRAPH}"), *folder.glob(f"*/*/{GRAPH}")]
    return sorted({path.relative_to(folder).parts[0] for path in found})


def _range(rounds: Rounds) -> range | None:
    return range(rounds, rounds + 1) if isinstance(rounds, int) else rounds


def _holders(store: RunStore) -> set[str]:
    return set(store.steps().column("holder").unique().to_pylist())


def _columns(store: RunStore, group: str, names: Sequence[str]) -> pa.Table:
    from genrl_graph.store.arrays import RolloutArrays

    steps = store.steps().select(["round", "rows"]).to_pylist()
    counts = [json.loads(step["rows"]).get(group, 0) for step in steps]
    arrays = RolloutArrays(store.folder / ROLLOUTS)
    published = min(arrays.counts.get(group, 0), sum(counts))
    parts = [arrays.read(group, 0, published, columns=tuple(names))] if published else []
    if waiting := sum(counts) - published:  # in the journal, or moved to the arrays by now
        ends = np.cumsum(counts)
        last = int(np.searchsorted(ends, published, side="right"))
        rows = store.table(group, range(steps[last]["round"], 2**31))
        behind = sum(count for step, count in zip(steps, counts, strict=True) if step["round"] >= steps[last]["round"])
        parts.append(rows.slice(behind - waiting, waiting).select(list(names)))
    return pa.concat_tables(parts) if parts else store.table(group, range(0)).select(list(names))
