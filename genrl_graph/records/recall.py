"""What a run that goes on has committed already: steps are recalled from its store instead of run again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from genrl_graph.contract.node import Exchange, Node
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import StoreError
from genrl_graph.records.inherit import IN_FULL
from genrl_graph.records.rebuild import described_type, exchanged_rows, rebuild, whole_rows
from genrl_graph.records.write import is_exchanged, is_whole
from genrl_graph.store.journal import Record
from genrl_graph.store.run_store import RunStore

WHY = (
    "the same seed and inputs gave another result: was the run played with other threads (OMP_NUM_THREADS, "
    "run.threads), another version of torch, or on another machine? Go on where it began, or start anew"
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A committed step of one peer: its facts and its rows by group."""

    facts: Mapping[str, Any]
    tables: Mapping[str, pa.Table]

    @property
    def metrics(self) -> dict[str, float]:
        """What the step reported."""
        return {name: float(value) for name, value in self.facts.get("metrics", {}).items()}

    @property
    def retries(self) -> int:
        """How many tries of this step failed before."""
        return len(self.facts.get("retried", ()))

    def outputs(
        self, node: Node, types: Mapping[str, EdgeType], inputs: Mapping[str, Any], *, holder: str, prefix: str
    ) -> dict[str, Frame]:
        """The outputs of the step, as `run` gave them; `inputs` are those that it had."""
        name = node.place.node
        refs = [f"{name}.{field}" if field else name for field in node.signature.outputs]
        return {ref: self._output(node, ref, types[ref], inputs, holder, prefix) for ref in refs}

    def _output(
        self, node: Node, ref: str, kind: EdgeType, inputs: Mapping[str, Any], holder: str, prefix: str
    ) -> Frame:
        group = prefix + ref.replace(".", "/")
        if ref in (types := self.facts.get("types", {})):
            kind = described_type(types[ref], kind, inputs)
        if f"{group}/{IN_FULL}" in self.tables:
            return whole_rows(kind, self.tables[f"{group}/{IN_FULL}"])
        if (own := self.facts.get("own_rows", {}).get(ref)) and is_exchanged(node, kind):
            assert isinstance(node, Exchange)
            offer = node.offer(**inputs)  # type: ignore[attr-defined]  # the contract was read at definition
            return exchanged_rows(kind, self.tables[group], offer, own)
        assert issubclass(kind.base, Frame)
        if is_whole(node.kind, kind.base.declared(kind.marks)):
            return whole_rows(kind, self.tables[group])
        return rebuild(kind, self.tables[group], inputs)


class Recall:
    """The committed steps of an open run, read round by round; what is committed later is not among them."""

    def __init__(self, store: RunStore, *, last: int) -> None:
        self._store, self._last = store, last
        self._round = -1
        self._steps: dict[tuple[str, str], Recorded] = {}

    def __call__(self, round: int, node: str, holder: str) -> Recorded | None:
        """The step of a node (`eval/<node>` in an evaluation) at a holder, None where it was not committed."""
        if round > self._last:
            return None
        if round != self._round:
            self._steps, self._round = _steps_of(self._store, round), round
        return self._steps.get((node, holder))


def _steps_of(store: RunStore, round: int) -> dict[tuple[str, str], Recorded]:
    """All records of a round, those of the evaluation before it included."""
    only = range(round, round + 1)
    groups: dict[str, tuple[pa.Table, int]] = {}
    found: dict[tuple[str, str], Recorded] = {}
    for step in store.steps(only).to_pylist():
        tables = {}
        for group, rows in json.loads(step["rows"]).items():
            table, start = groups.get(group) or (store.table(group, only), 0)
            tables[group] = table.slice(start, rows)
            groups[group] = (table, start + rows)
        found[step["node"], step["holder"]] = Recorded(json.loads(step["facts"]), tables)
    return found


def verify(recorded: Recorded, again: Record, *, where: str) -> None:
    """Raise `StoreError` where an update that is applied again gives another value than it did."""
    for ref, digest in recorded.facts.get("digests", {}).items():
        if again.facts["digests"].get(ref) != digest:
            raise StoreError(f"{where}: {ref} became {again.facts['digests'].get(ref)}, but {digest} in the run; {WHY}")
