"""How rewards and advantages moved in a replay: what was stored of them against what was computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrl_graph.edge_types.frame import Frame

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ColumnDelta:
    """How one column of a node moved, over all rounds and peers; pairs are (old, new).

    `rows` both have, of which `changed` differ; `mean` and `size`, the mean absolute value, are over those that were
    judged, and `unjudged` are the others; `largest` is the change with the largest size; `rank` is Spearman's
    correlation of the rows, None where one side is constant; of `groups` so many `varied`, which is what trains. Of
    the rows that only one side has, `gone` are the run's and `come` those of the replay.
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
    gone: int
    come: int


@dataclass(slots=True)
class _Column:
    """The values of a column in rows that both have, turn by turn."""

    old: list[Numbers] = field(default_factory=list)
    new: list[Numbers] = field(default_factory=list)
    groups: int = 0
    varied: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    gone: int = 0
    come: int = 0


class ColumnDeltas:
    """Collects what one peer's round stored and what it gives now, node by node."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], _Column] = {}

    def take(self, ref: str, old: pa.Table | None, rows: Frame) -> None:
        """Add an output of one turn: `old` as it was stored, `rows` as they were computed; None where it is new."""
        if old is None or "id" not in old.column_names or "id" not in rows.table.column_names:
            return
        names = [name for name in old.column_names if _is_judgement(name) and name in rows.table.column_names]
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
            column.gone += len(before) - len(common)
            column.come += len(now) - len(common)
            if groups is not None and len(groups):
                column.groups += int(groups.max()) + 1
                column.varied += [_varied(values[-1], groups) for values in (column.old, column.new)]

    def found(self) -> tuple[ColumnDelta, ...]:
        """One move a column, in the order of the nodes."""
        return tuple(_move(node, name, column) for (node, name), column in self._columns.items())


def _move(node: str, name: str, column: _Column) -> ColumnDelta:
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
        gone=column.gone,
        come=column.come,
    )


def _is_judgement(name: str) -> bool:
    return name in ("reward", "advantage") or name.startswith("reward_")


def _places(ids: list[str]) -> Mapping[str, int]:
    """Where each id stands first."""
    return {id: at for at, id in reversed(list(enumerate(ids)))}


def _numbered(rows: Frame, at: list[int]) -> NDArray[np.int64] | None:
    """The groups of these rows as numbers from 0, None for rows without groups."""
    if "group_id" not in rows.table.column_names:
        return None
    groups = rows.values("group_id")
    return np.unique(np.asarray([groups[i] for i in at], dtype=object), return_inverse=True)[1]


def _varied(values: Numbers, groups: NDArray[np.int64]) -> int:
    """How many groups have values that differ."""
    judged = np.isfinite(values)
    low, high = np.full(groups.max() + 1, np.inf), np.full(groups.max() + 1, -np.inf)
    np.minimum.at(low, groups[judged], values[judged])
    np.maximum.at(high, groups[judged], values[judged])
    return int((high > low).sum())


def _mean(values: Numbers) -> float:
    judged = values[np.isfinite(values)]
    return float(judged.mean()) if len(judged) else float("nan")


def _spearman(these: Numbers, those: Numbers) -> float | None:
    """Spearman's rank correlation, ties at their mean rank."""
    if len(these) < 2 or these.min() == these.max() or those.min() == those.max():
        return None
    return float(np.corrcoef(_ranks(these), _ranks(those))[0, 1])


def _ranks(values: Numbers) -> Numbers:
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    means: Numbers = ends - (count - 1) / 2
    return means[number]
