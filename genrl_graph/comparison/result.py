"""The result of a comparison: curves with bands, differences, verdicts and notes, also as data frames."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from genrl_graph.comparison.align import Aligned
from genrl_graph.comparison.expectation import Verdict
from genrl_graph.comparison.history import Unit
from genrl_graph.comparison.interval import Intervals
from genrl_graph.comparison.settings import Setting

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of one setting minus that of another at the last common position; `pairs` runs share their seeds."""

    metric: str
    first: str
    second: str
    at: float
    pairs: int
    runs: tuple[int, int]
    mean: float
    low: float
    high: float


@dataclass(slots=True)
class Comparison:
    """The comparison of some settings: curves with bands, differences, verdicts, and what to know about the runs."""

    unit: Unit
    settings: list[Setting]
    metrics: list[Aligned]
    bands: Mapping[tuple[str, str], Intervals]
    differences: list[Difference]
    verdicts: list[Verdict]
    notes: list[str]

    @property
    def met(self) -> bool:
        """Return whether every expectation is met."""
        return all(verdict.met for verdict in self.verdicts)

    @property
    def table(self) -> pa.Table:
        """All means and differences, a row each: `minus` is the other setting of a difference, null for a mean.

        `last` marks the last common position, which table.md shows.
        """
        return pa.Table.from_pylist(list(self._rows()), schema=_SCHEMA)

    @property
    def curves(self) -> "pd.DataFrame":
        """The means with their intervals at all positions, as a data frame."""
        return _frame([row for row in self._rows() if row["minus"] is None])

    @property
    def summary(self) -> "pd.DataFrame":
        """The means with their intervals at the last common position, as a data frame."""
        return _frame([row for row in self._rows() if row["minus"] is None and row["last"]])

    @property
    def pairs(self) -> "pd.DataFrame":
        """The differences between settings, as a data frame."""
        return _frame([row for row in self._rows() if row["minus"] is not None])

    def _rows(self) -> Iterator[dict[str, object]]:
        for aligned in self.metrics:
            for label in aligned.values:
                band = self.bands[aligned.metric, label]
                columns = (aligned.positions, band.runs, band.mean, band.low, band.high)
                for number, values in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
                    last = number == len(aligned.positions) - 1
                    yield _row(aligned.metric, label, None, self.unit, aligned.window, last, *values)
        windows = {aligned.metric: aligned.window for aligned in self.metrics}
        for d in self.differences:
            window = windows[d.metric]
            yield _row(d.metric, d.first, d.second, self.unit, window, True, d.at, d.pairs, d.mean, d.low, d.high)


_SCHEMA = pa.schema(
    {
        "metric": pa.string(),
        "setting": pa.string(),
        "minus": pa.string(),
        "unit": pa.string(),
        "smoothed_over": pa.int64(),
        "last": pa.bool_(),
        "at": pa.float64(),
        "runs": pa.int64(),
        "mean": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
    }
)


def _row(*values: object) -> dict[str, object]:
    return dict(zip(_SCHEMA.names, values, strict=True))


def _frame(rows: Sequence[Mapping[str, object]]) -> "pd.DataFrame":
    frame: pd.DataFrame = pa.Table.from_pylist(list(rows), schema=_SCHEMA).to_pandas()
    return frame
