"""Deltas of rewards and advantages in a replay: the stored values of the run against the recomputed ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrl_graph.edge_types.frame import Frame

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ColumnDelta:
    """The change of one column of a node, over all rounds and peers; pairs are (run, replay).

    Attributes:
        node: The node of the replay.
        column: `reward`, `reward_<term>` or `advantage`.
        rows: Rows that are in both.
        changed: Rows whose values differ.
        mean: Mean over the judged rows.
        size: Mean absolute value over the judged rows.
        largest: The change with the largest absolute value.
        rank: Spearman's rank correlation over the rows, None where one side is constant.
        unjudged: Rows without a finite value.
        groups: Groups of these rows.
        varied: Groups whose values differ; only these give a gradient.
        removed: Rows that only the run has.
        added: Rows that only the replay has.
    """

    node: str
    column: str
    rows: int
    changed: int
    mean: tuple[float, float]
    size: tuple[float, float]
    largest: float
    rank: float | None
    unjudged: tuple[int, int]
    groups: int
    varied: tuple[int, int]
    removed: int
    added: int


@dataclass(slots=True)
class _Column:
    """The values of a column in the rows that both have: one array per round and peer."""

    old: list[Numbers] = field(default_factory=list)
    new: list[Numbers] = field(default_factory=list)
    groups: int = 0
    varied: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    removed: int = 0
    added: int = 0


class ColumnDeltas:
    """Collects stored and recomputed values, node by node, and compares them."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], _Column] = {}

    def take(self, ref: str, old: pa.Table | None, rows: Frame) -> None:
        """Add an output of one round and peer: `old` as the run stored it, None for a new node; `rows` recomputed."""
        if old is None or "id" not in old.column_names or "id" not in rows.table.column_names:
            return
        names = [name for name in old.column_names if _is_compared(name) and name in rows.table.column_names]
        if not names:
            return
        before, now = _places(old.column("id").to_pylist()), _places(rows.values("id"))
        common = [id for id in before if id in now]
        here, there = [now[id] for id in common], [before[id] for id in common]
        groups = _numbered(rows, here)
        for name in names:
            column = self._columns.setdefault((ref, name), _Column())
            column.old.append(old.column(name).to_numpy()[there])
            column.new.append(rows.numpy(name)[here])
            column.removed += len(before) - len(common)
            column.added += len(now) - len(common)
            if groups is not None and len(groups):
                column.groups += int(groups.max()) + 1
                column.varied += [_varied(values[-1], groups) for values in (column.old, column.new)]

    def deltas(self) -> tuple[ColumnDelta, ...]:
        """Return one delta per column, in the order of the nodes."""
        return tuple(_delta(node, name, column) for (node, name), column in self._columns.items())


def _delta(node: str, name: str, column: _Column) -> ColumnDelta:
    old, new = np.concatenate(column.old), np.concatenate(column.new)
    both = np.isfinite(old) & np.isfinite(new)
    changes = (new - old)[both]
    return ColumnDelta(
        node=node,
        column=name,
        rows=len(old),
        changed=int((~((old == new) | (np.isnan(old) & np.isnan(new)))).sum()),
        mean=(_mean(old), _mean(new)),
        size=(_mean(np.abs(old)), _mean(np.abs(new))),
        largest=float(changes[np.argmax(np.abs(changes))]) if len(changes) else 0.0,
        rank=_spearman(old[both], new[both]),
        unjudged=(int((~np.isfinite(old)).sum()), int((~np.isfinite(new)).sum())),
        groups=column.groups,
        varied=(int(column.varied[0]), int(column.varied[1])),
        removed=column.removed,
        added=column.added,
    )


def _is_compared(name: str) -> bool:
    return name in ("reward", "advantage") or name.startswith("reward_")


def _places(ids: list[str]) -> Mapping[str, int]:
    """Return the first position of each id."""
    return {id: at for at, id in reversed(list(enumerate(ids)))}


def _numbered(rows: Frame, at: list[int]) -> NDArray[np.int64] | None:
    """Return the groups of the rows at these positions as numbers from 0, None for rows without groups."""
    if "group_id" not in rows.table.column_names:
        return None
    groups = rows.values("group_id")
    return np.unique(np.asarray([groups[i] for i in at], dtype=object), return_inverse=True)[1]


def _varied(values: Numbers, groups: NDArray[np.int64]) -> int:
    """Count the groups whose values differ."""
    judged = np.isfinite(values)
    low, high = np.full(groups.max() + 1, np.inf), np.full(groups.max() + 1, -np.inf)
    np.minimum.at(low, groups[judged], values[judged])
    np.maximum.at(high, groups[judged], values[judged])
    return int((high > low).sum())


def _mean(values: Numbers) -> float:
    judged = values[np.isfinite(values)]
    return float(judged.mean()) if len(judged) else float("nan")


def _spearman(these: Numbers, those: Numbers) -> float | None:
    """Return Spearman's rank correlation, with ties at their mean rank; None where one side is constant."""
    if len(these) < 2 or these.min() == these.max() or those.min() == those.max():
        return None
    return float(np.corrcoef(_ranks(these), _ranks(those))[0, 1])


def _ranks(values: Numbers) -> Numbers:
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    means: Numbers = ends - (count - 1) / 2
    return means[number]
