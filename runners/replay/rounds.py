"""The complete rounds of a stored run, as a replay reads them: records to copy, and outputs rebuilt on demand."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrl_graph.contract.node import Generator, Node, Place, Source
from genrl_graph.dag.graph import Graph, Part
from genrl_graph.dag.infer import infer
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import GraphError, ParamError
from genrl_graph.records.recall import Recall, RecordedStep
from genrl_graph.records.stored_run import StoredRun
from genrl_graph.store.journal import Record
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.run_store import RunStore


class StoredRounds:
    """The rounds that all peers of a store had completed when this was created; evaluations are not included.

    `holders` maps each round to its peers, sorted.
    """

    def __init__(self, run: StoredRun) -> None:
        self._graph, self._types, self._where = run.graph, infer(run.graph), run.folder
        self._folders: dict[tuple[int, str], RunStore] = {}
        self._recalls: dict[Path, Recall] = {}
        holders_by_round: dict[int, list[str]] = {}
        for folder in run.folders:
            store = RunStore.open(folder)
            self._recalls[folder] = Recall(store, last=sys.maxsize)
            for number, holders in _complete(store, set(run.graph.played_in("rounds").nodes)):
                holders_by_round.setdefault(number, []).extend(holders)
                self._folders |= {(number, holder): store for holder in holders}
        self.holders = {number: sorted(holders_by_round[number]) for number in sorted(holders_by_round)}

    @property
    def peers(self) -> list[str]:
        """The names of all peers, sorted."""
        return sorted({holder for holders in self.holders.values() for holder in holders})

    def chosen(self, first: int, end: int | None) -> list[int]:
        """Return the complete rounds from `first` up to but without `end` (None: all later ones).

        Raises `ParamError` where there are none, or the range exceeds them.
        """
        if not self.holders:
            raise ParamError(f"{self._where}: no round is complete yet; replay it once one is")
        low, high = min(self.holders), max(self.holders)
        chosen = [number for number in self.holders if first <= number and (end is None or number < end)]
        if not chosen or first < low or (end is not None and end > high + 1):
            asked = f"{first}:{'' if end is None else end}"
            raise ParamError(f"--rounds {asked}: {self._where} has the complete rounds {low} to {high}")
        return chosen

    def holder_round(self, round: int, holder: str) -> "HolderRound":
        """Return the stored round of one peer."""
        store = self._folders[round, holder]
        recall = self._recalls[store.folder]

        def step(node: str) -> RecordedStep | None:
            return recall(round, node, holder)

        return HolderRound(round, holder, self._graph, self._types, step)

    def checkpoints(self, holder: str) -> RunPath:
        """Return the folder with the checkpoints of a peer."""
        return next(store for (_, name), store in self._folders.items() if name == holder).checkpoints


@dataclass(slots=True)
class HolderRound:
    """The stored round of one peer; `holder_round["answers"]` rebuilds an output on first access."""

    round: int
    holder: str
    _graph: Graph
    _types: Mapping[str, EdgeType]
    _step: Callable[[str], RecordedStep | None]
    _outputs: dict[str, Frame] = field(default_factory=dict)

    def recorded(self, node: str) -> RecordedStep:
        """Return the committed step of a node."""
        recorded = self._step(node)
        assert recorded is not None, f"round {self.round} of {self.holder} is complete, but has no {node}"
        return recorded

    def record(self, node: str) -> Record:
        """Return the record of a node, to be committed unchanged."""
        recorded = self.recorded(node)
        return Record(self.round, node, self.holder, dict(recorded.facts), dict(recorded.tables))

    def table(self, ref: str) -> pa.Table | None:
        """Return the stored columns of an output, None where nothing is stored."""
        return self.recorded(ref.partition(".")[0]).tables.get(ref.replace(".", "/"))

    def __getitem__(self, ref: str) -> Frame:
        if ref not in self._outputs:
            self._outputs |= self._rebuild(self._graph.nodes[ref.partition(".")[0]])
        return self._outputs[ref]

    def _rebuild(self, part: Part) -> dict[str, Frame]:
        """Return the outputs of a node from its record, and from its rebuilt inputs where its rows refer to them."""
        if not isinstance(part.declared, Node):
            what = f"{part.name} is read again, but its type {part.type_name} is not known with these params"
            raise GraphError(f"nodes.{what}; --import what defined it when the run was played")
        recorded, node = self.recorded(part.name), part.declared.placed(Place(part.name))
        inputs: dict[str, Any] = {}
        if not isinstance(node, Source | Generator) or "types" in recorded.facts:
            row_inputs = _with_row_inputs(part, self._types)
            inputs = row_inputs.bind({edge.ref: self[edge.ref] for edge in row_inputs.edges()})
        return recorded.outputs(node, self._types, inputs, holder=self.holder, prefix="")


def _with_row_inputs(part: Part, types: Mapping[str, EdgeType]) -> Part:
    """Return the part with its row inputs only: stored rows never refer to carried values."""
    live = {edge.socket for edge in part.edges() if edge.ref in types and not issubclass(types[edge.ref].base, Frame)}
    return replace(part, inputs={name: wire for name, wire in part.inputs.items() if name not in live})


def _complete(store: RunStore, nodes: set[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rounds in which all peers of a store have committed every node, with these peers."""
    steps = store.steps().select(["round", "node", "holder"]).to_pylist()
    rounds: dict[int, dict[str, set[str]]] = {}
    for step in steps:
        if step["node"] in nodes:
            rounds.setdefault(step["round"], {}).setdefault(step["holder"], set()).add(step["node"])
    for number, holders in rounds.items():
        if all(committed == nodes for committed in holders.values()):
            yield number, list(holders)
