"""Recall the committed steps of a resumed run from its store, instead of running them again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from genrl_graph.contract.node import Exchange, Node, Packet
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import StoreError
from genrl_graph.records.facts import read_facts
from genrl_graph.records.inherit import IN_FULL
from genrl_graph.records.rebuild import exchange_rows, full_rows, rebuild, type_from_json
from genrl_graph.records.write import stored_in_full, stores_others_only
from genrl_graph.store.journal import Record
from genrl_graph.store.run_store import RunStore
from genrl_graph.store.view import rows_of_step

RECEIVED = "received"
"""Group, below an exchange that returns carried values, of the rows of the other peers."""
ADVICE = (
    "the same seed and inputs gave another result: did the run have other threads (OMP_NUM_THREADS, "
    "run.threads), another version of torch, or another machine? Resume it in its first environment, or start a new run"
)


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A committed step of one peer: its facts and its rows by group."""

    facts: Mapping[str, Any]
    tables: Mapping[str, pa.Table]

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that the step reported."""
        return {name: float(value) for name, value in self.facts.get("metrics", {}).items()}

    @property
    def retries(self) -> int:
        """The number of failed attempts before this step was committed."""
        return len(self.facts.get("retried", ()))

    def outputs(
        self, node: Node, types: Mapping[str, EdgeType], inputs: Mapping[str, Any], *, holder: str, prefix: str
    ) -> dict[str, Frame]:
        """Rebuild the outputs of the step, as `run` returned them, from its rows and its `inputs`, by reference."""
        name = node.place.node
        refs = [f"{name}.{field}" if field else name for field in node.signature.outputs]
        return {ref: self._output(node, ref, types[ref], inputs, holder, prefix) for ref in refs}

    def packets(self, group: str, offer: Frame, *, round: int, holder: str) -> tuple[Packet[Frame], ...]:
        """Return the packets that an exchange received, from their rows in `group` and the own `offer`."""
        kind, stale, at = EdgeType(type(offer), offer.marks), self.facts.get("stale", {}), 0
        received = full_rows(kind, self.tables[group]) if group in self.tables else offer.take([])
        packets = []
        for peer, count in self.facts["peers"].items():
            own = peer == holder
            rows = offer if own else received.take(range(at, at + count))
            packets.append(Packet(peer, stale.get(peer, round), rows))
            at += 0 if own else count
        return tuple(packets)

    def _output(
        self, node: Node, ref: str, kind: EdgeType, inputs: Mapping[str, Any], holder: str, prefix: str
    ) -> Frame:
        group = prefix + ref.replace(".", "/")
        if ref in (types := self.facts.get("types", {})):
            kind = type_from_json(types[ref], kind, inputs)
        if f"{group}/{IN_FULL}" in self.tables:
            return full_rows(kind, self.tables[f"{group}/{IN_FULL}"])
        if group not in self.tables:
            raise StoreError(f"{group}: its record ({holder}) holds no rows of it; restore the folder from a copy")
        if (own := self.facts.get("own_rows", {}).get(ref)) and stores_others_only(node, kind):
            assert isinstance(node, Exchange)
            offer = node.offer(**inputs)  # type: ignore[attr-defined]  # the contract was read at definition
            return exchange_rows(kind, self.tables[group], offer, own)
        assert issubclass(kind.base, Frame)
        if stored_in_full(node.kind, kind.base.declared(kind.marks)):
            return full_rows(kind, self.tables[group])
        return rebuild(kind, self.tables[group], inputs)


class Recall:
    """Looks up the steps of an open run that were committed up to round `last`, reading one round at a time.

    It keeps two rounds: of a round that samples ahead, steps are looked up together with those of the next.
    """

    def __init__(self, store: RunStore, *, last: int) -> None:
        self._store, self._last = store, last
        self._rounds: dict[int, dict[tuple[str, str], RecordedStep]] = {}

    def __call__(self, round: int, node: str, holder: str) -> RecordedStep | None:
        """Return the step of a node (`eval/<node>` in an evaluation) of a holder, None where it was not committed."""
        if round > self._last:
            return None
        if round not in self._rounds:
            self._rounds = {known: self._rounds[known] for known in list(self._rounds)[-1:]}
            self._rounds[round] = _steps_of(self._store, round)
        return self._rounds[round].get((node, holder))


def _steps_of(store: RunStore, round: int) -> dict[tuple[str, str], RecordedStep]:
    """Return all steps of a round by node and holder, those of the evaluation before it included."""
    only = range(round, round + 1)
    groups: dict[str, tuple[pa.Table, int]] = {}  # rows of the round, and how many of them belong to earlier steps
    steps: dict[tuple[str, str], RecordedStep] = {}
    for step in store.steps(only).to_pylist():
        tables = {}
        for group, rows in rows_of_step(step["rows"], store.folder).items():
            table, start = groups.get(group) or (store.table(group, only), 0)
            tables[group] = table.slice(start, rows)
            groups[group] = (table, start + rows)
        steps[step["node"], step["holder"]] = RecordedStep(read_facts(step["facts"], store.folder), tables)
    return steps


def verify(recorded: RecordedStep, again: Record, *, where: str) -> None:
    """Raise `StoreError` where an update that was applied again gave another value, by digest, than in the run."""
    for ref, digest in recorded.facts.get("digests", {}).items():
        if again.facts["digests"].get(ref) != digest:
            raise StoreError(
                f"{where}: {ref} became {again.facts['digests'].get(ref)}, but {digest} in the run; {ADVICE}"
            )
