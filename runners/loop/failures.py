"""Rows of a step that failed or stayed unjudged: how many, of how many, and why the first did."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.node import Generator, Node, Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.frame import Frame

LOST_ROWS = "lost_rows"
"""The fact of a step that says how many of its own rows failed, of how many, and why the first did."""


@dataclass(frozen=True, slots=True)
class FailedRows:
    """`count` of the `total` own rows of a step failed, or stayed unjudged; `reason` is that of the first.

    Of a generator all rows count, steps of an episode as one; of a reward those that did not fail before.
    """

    count: int = 0
    total: int = 0
    reason: str = ""
    verb: str = "failed"

    def __add__(self, other: "FailedRows") -> "FailedRows":
        verb = self.verb if self.count else other.verb
        return FailedRows(self.count + other.count, self.total + other.total, self.reason or other.reason, verb)

    def fact(self) -> dict[str, int | str]:
        """Return the fact `LOST_ROWS` of the journal."""
        return {"count": self.count, "total": self.total, "reason": self.reason, "verb": self.verb}

    @classmethod
    def recorded(cls, facts: Mapping[str, Any]) -> "FailedRows":
        """Return what the facts of a committed step say."""
        return cls(**facts[LOST_ROWS]) if LOST_ROWS in facts else cls()

    def __str__(self) -> str:
        return f"{self.count} of {self.total} rows {self.verb}"


NONE_FAILED = FailedRows()


def failures_of(
    node: Node,
    outputs: Mapping[str, Any],
    reasons: Mapping[str, str],
    *,
    peer: str,
    excused: Collection[str] = (),
) -> FailedRows:
    """Count the rows of `peer` that failed at a generator, or that a reward left unjudged; `excused` ids do not count.

    The reason is the row's `error`, or that of its id in `reasons`.
    """
    frames = [rows for rows in outputs.values() if isinstance(rows, Frame)]
    if isinstance(node, Generator):
        return _sum(_sampled(rows, peer) for rows in frames)
    if isinstance(node, Reward):
        return _sum(_judged(rows, peer, excused, reasons) for rows in frames if SCORED in rows.marks)
    return NONE_FAILED


def logged_reasons(log: Log) -> dict[str, str]:
    """Return why a reward left rows unjudged, by id, from its table `failures`."""
    logged = log.tables.get("failures", {})
    return dict(zip(logged.get("id", ()), logged.get("reason", ()), strict=True))


def first_failure(node: str, round: int, reason: str) -> str:
    """Return the place and reason of the first failed row of a run."""
    return f"{node} (round {round}): {reason}"


def failed_mask(rows: Frame) -> NDArray[np.bool_]:
    """Return a mask of the rows whose generator failed."""
    if "finish_reason" not in rows.table.column_names:
        return np.zeros(len(rows), dtype=bool)
    return np.asarray([finish == "failed" for finish in rows.values("finish_reason")], dtype=bool)


def _sum(counts: Iterable[FailedRows]) -> FailedRows:
    return sum(counts, NONE_FAILED)


def _sampled(rows: Frame, peer: str) -> FailedRows:
    """Count failed samples; the steps of a trajectory are one sample."""
    failed = _own(rows, peer) & failed_mask(rows)
    samples: Sequence[Any] = range(len(rows))
    if "id" in rows.table.column_names:
        samples = [type(rows).trajectory_id(id) for id in rows.values("id")]
    own = {sample for sample, is_own in zip(samples, _own(rows, peer), strict=True) if is_own}
    lost = {sample for sample, has_failed in zip(samples, failed, strict=True) if has_failed}
    errors = rows.values("error") if "error" in rows.table.column_names else [""] * len(rows)
    return FailedRows(len(lost), len(own), errors[int(failed.argmax())] if lost else "")


def _judged(rows: Frame, peer: str, excused: Collection[str], reasons: Mapping[str, str]) -> FailedRows:
    """Count finished rows without a finite reward."""
    ids = rows.values("id") if "id" in rows.table.column_names else list(map(str, range(len(rows))))
    finished = _own(rows, peer) & ~failed_mask(rows) & np.asarray([id not in excused for id in ids], dtype=bool)
    unjudged = finished & ~np.isfinite(rows.numpy("reward"))
    first = ids[int(unjudged.argmax())] if unjudged.any() else ""
    reason = reasons.get(first, "its reward is NaN") if first else ""
    return FailedRows(int(unjudged.sum()), int(finished.sum()), reason, "could not be judged")


def _own(rows: Frame, peer: str) -> NDArray[np.bool_]:
    if "peer" not in rows.table.column_names:
        return np.ones(len(rows), dtype=bool)
    return np.asarray([name == peer for name in rows.values("peer")], dtype=bool)
