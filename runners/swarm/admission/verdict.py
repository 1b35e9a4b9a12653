"""The verdict on a packet: which of its rows are refused, by which rule, and what is told of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from genrl_graph.arrow.row_sums import Counts
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.violation import Mask, ReceiverContext
from genrl_graph.errors import PeerRefused
from genrl_graph.messages import short

PAYLOAD = -1
"""The `row` of a refusal that is about the whole payload."""

MOST_REFUSALS = 256  # of a packet, that are told one by one
MOST_ID = 256


@dataclass(frozen=True, slots=True)
class RowRefusal:
    """A row of a peer that was not taken: its place in the packet (or `PAYLOAD`), its id, the rule and the value."""

    peer: str
    row: int
    id: str
    rule: str
    value: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The good rows of a packet, the first refusals, and how many rows were offered and refused."""

    rows: Frame
    refusals: tuple[RowRefusal, ...] = ()
    offered: int = 0
    refused: int = 0

    @property
    def misbehaved(self) -> bool:
        """Whether the payload, or more than half of its rows, was refused."""
        return any(refusal.row == PAYLOAD for refusal in self.refusals) or 2 * self.refused > self.offered


class AdmissionVerdict:
    """Which rows of a packet are refused; the first rule that a row breaks counts."""

    def __init__(self, rows: Frame, sender: str) -> None:
        self.rows, self.sender = rows, sender
        self._good = np.ones(len(rows), dtype=bool)
        self._refusals: dict[int, RowRefusal] = {}
        self._ids = rows.table.column("id") if "id" in rows.table.column_names else None

    def values(self, column: str) -> dict[int, Any]:
        """The values of the rows that broke no rule so far, by their places."""
        places = np.flatnonzero(self._good)
        values = self.rows.table.column(column).take(pa.array(places)).to_pylist()
        return dict(zip(places.tolist(), values, strict=True))

    def mask(self, places: Iterable[int]) -> Mask:
        """The rows at these places."""
        mask = np.zeros(len(self.rows), dtype=bool)
        mask[list(places)] = True
        return mask

    def refuse(self, rule: str, bad: Mask, value: "str | Counts | Mapping[int, str]") -> None:
        """Refuse rows; `value` is the column that shows why, or what is shown of each row."""
        fresh = np.flatnonzero(bad & self._good)
        self._good[fresh] = False
        for at in fresh[:MOST_REFUSALS].tolist():
            shown = _shown(self.rows.table.column(value)[at].as_py()) if isinstance(value, str) else str(value[at])
            self._refusals[at] = RowRefusal(self.sender, at, self._id(at), rule, shown)

    def refuse_flaws(self, known: ReceiverContext) -> None:
        """Refuse what the type of the rows knows to be wrong."""
        places = np.flatnonzero(self._good)
        for flaw in self._kept().flaws(known):
            self.refuse(flaw.rule, self.mask(places[flaw.rows].tolist()), flaw.column)

    def given(self) -> Admitted:
        """What comes of it."""
        told = tuple(self._refusals[at] for at in sorted(self._refusals)[:MOST_REFUSALS])
        kept = self._kept()
        return Admitted(kept, told, len(self.rows), len(self.rows) - len(kept))

    def _kept(self) -> Frame:
        return self.rows if self._good.all() else self.rows.where(self._good)

    def _id(self, at: int) -> str:
        id = "" if self._ids is None else self._ids[at].as_py()
        return id if isinstance(id, str) and len(id) <= MOST_ID and id.isprintable() else short(id)


def refused_payload(sender: str, like: Frame, why: PeerRefused) -> Admitted:
    """Nothing, because of a payload whose refusal says `<rule>: <value>`."""
    rule, _, value = str(why).partition(": ")
    return Admitted(like.take([]), (RowRefusal(sender, PAYLOAD, "", rule, value[:200]),))


def refusal_columns(refusals: Iterable[RowRefusal]) -> dict[str, list[Any]]:
    """Refusals as equally long columns; none where nothing was refused."""
    listed = list(refusals)
    return {name: [getattr(refusal, name) for refusal in listed] for name in RowRefusal.__slots__} if listed else {}


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} elements: {short(value[:8])}"
    return short(value)
