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

FIRST_FAILURE = "first_failure"
"""The fact of a step that says why its first own row failed."""


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

    def __str__(self) -> str:
        return f"{self.count} of {self.total} rows {self.verb}"


NONE_FAILED = FailedRows()


def failures_of(
    node: Node, outputs: Mapping[str, Any], log: Log, *, peer: str, excused: Collection[str] = ()
) -> FailedRows:
    """Count the rows of `peer` that failed at a generator, or that a reward left unjudged; `excused` ids do not count.

    The reason is the row's `error`, or what the reward logged of it in its table `failures`.
    """
    frames = [rows for rows in outputs.values() if isinstance(rows, Frame)]
    if isinstance(node, Generator):
        return _sum(_sampled(rows, peer) for rows in frames)
    if isinstance(node, Reward):
        logged = log.tables.get("failures", {})
        reasons = dict(zip(logged.get("id", ()), logged.get("reason", ()), strict=True))
        return _sum(_judged(rows, peer, excused, reasons) for rows in frames if SCORED in rows.marks)
    return NONE_FAILED


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
        samples = [type(rows).story(id) for id in rows.values("id")]
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
