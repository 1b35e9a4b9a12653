"""The verdict on a packet: its refused rows, with the rule and value of each, and the rows that remain."""

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
"""The `row` of a refusal of the whole payload."""

MOST_REFUSALS = 256  # rows of a packet that are listed one by one; more are only counted
MOST_ID = 256


@dataclass(frozen=True, slots=True)
class RowRefusal:
    """A refused row of a peer: its index in the packet (or `PAYLOAD`), its id, the rule it breaks and the value."""

    peer: str
    row: int
    id: str
    rule: str
    value: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The admitted rows of a packet, its first refusals, and the numbers of rows offered and refused."""

    rows: Frame
    refusals: tuple[RowRefusal, ...] = ()
    offered: int = 0
    refused: int = 0
    out_of_time: bool = False

    @property
    def misbehaved(self) -> bool:
        """Return whether the payload, or more than half of its rows, was refused, or its time ended."""
        if self.out_of_time:
            return True
        return any(refusal.row == PAYLOAD for refusal in self.refusals) or 2 * self.refused > self.offered


class AdmissionVerdict:
    """The refused rows of one packet; a row is refused under the first rule that it breaks."""

    def __init__(self, rows: Frame, sender: str) -> None:
        self.rows, self.sender = rows, sender
        self._good = np.ones(len(rows), dtype=bool)
        self._refusals: dict[int, RowRefusal] = {}
        self._ids = rows.table.column("id") if "id" in rows.table.column_names else None

    def values(self, column: str) -> dict[int, Any]:
        """Return the values of a column by row index, for the rows that broke no rule so far."""
        places = np.flatnonzero(self._good)
        values = self.rows.table.column(column).take(pa.array(places)).to_pylist()
        return dict(zip(places.tolist(), values, strict=True))

    def mask(self, places: Iterable[int]) -> Mask:
        """Return a boolean mask that is true at these row indices."""
        mask = np.zeros(len(self.rows), dtype=bool)
        mask[list(places)] = True
        return mask

    def refuse(self, rule: str, bad: Mask, value: "str | Counts | Mapping[int, str]") -> None:
        """Refuse the rows of a mask; `value` is the column to show for each, or the value to show by row index."""
        fresh = np.flatnonzero(bad & self._good)
        self._good[fresh] = False
        for at in fresh[:MOST_REFUSALS].tolist():
            shown = _shown(self.rows.table.column(value)[at].as_py()) if isinstance(value, str) else str(value[at])
            self._refusals[at] = RowRefusal(self.sender, at, self._id(at), rule, shown)

    def refuse_flaws(self, known: ReceiverContext) -> None:
        """Refuse the good rows that break a rule of their edge type (`Frame.violations`)."""
        places = np.flatnonzero(self._good)
        for flaw in self._good_rows().violations(known):
            self.refuse(flaw.rule, self.mask(places[flaw.rows].tolist()), flaw.column)

    def result(self) -> Admitted:
        """Return the rows that broke no rule, with the refusals of the others."""
        refusals = tuple(self._refusals[at] for at in sorted(self._refusals)[:MOST_REFUSALS])
        good = self._good_rows()
        return Admitted(good, refusals, len(self.rows), len(self.rows) - len(good))

    def _good_rows(self) -> Frame:
        return self.rows if self._good.all() else self.rows.where(self._good)

    def _id(self, at: int) -> str:
        id = "" if self._ids is None else self._ids[at].as_py()
        return id if isinstance(id, str) and len(id) <= MOST_ID and id.isprintable() else short(id)


def refused_payload(sender: str, like: Frame, why: PeerRefused) -> Admitted:
    """Return no rows and one refusal of the whole payload; the error reads `<rule>: <value>`."""
    rule, _, value = str(why).partition(": ")
    return Admitted(like.take([]), (RowRefusal(sender, PAYLOAD, "", rule, value[:200]),))


def refusal_columns(refusals: Iterable[RowRefusal]) -> dict[str, list[Any]]:
    """Return refusals as columns of equal length; no columns if nothing was refused."""
    listed = list(refusals)
    return {name: [getattr(refusal, name) for refusal in listed] for name in RowRefusal.__slots__} if listed else {}


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} elements: {short(value[:8])}"
    return short(value)
