"""`select.continue_if`: the rows that go on to the next stage."""

from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from genrl_graph.contract.node import Select
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import R, Scored
from genrl_graph.errors import ColumnError


class ContinueIf(Select, name="continue_if"):
    """Keeps the rows whose `column` is within bounds, or is one of some texts: those go on to the next stage.

    A generator with `each` on these rows and `unbranched: skip` samples their continuations, which makes a search tree
    of any depth (as of arXiv 2309.17179); the other rows are leaves. For a rule on the text, add a term of
    `reward.regex` with weight 0 and compare its column. Rows with NaN (not judged) do not go on. `select.top` keeps the
    best of each group instead.
    """

    column: str = Field(
        default="reward", description="column that decides, such as reward, reward_<term>, finish_reason"
    )
    at_least: float | None = Field(default=None, allow_inf_nan=False, description="least number of a row that goes on")
    at_most: float | None = Field(default=None, allow_inf_nan=False, description="largest number of a row that goes on")
    one_of: tuple[str, ...] = Field(default=(), description="texts of rows that go on, such as length or stop")

    @model_validator(mode="after")
    def _has_one_rule(self) -> Self:
        has_bounds = self.at_least is not None or self.at_most is not None
        if has_bounds == bool(self.one_of):
            what = "both bounds and one_of are set" if has_bounds else "no rule is set, so every row would go on"
            raise ValueError(f"{what}; set at_least or at_most for a column of numbers, or one_of for one of texts")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least is {self.at_least:g} and at_most {self.at_most:g}, so no row ever goes on")
        return self

    def run(self, rows: Scored[R], *, log: Log) -> Scored[R]:
        """Return the rows that go on, in order; raises `ColumnError` if `column` is missing or of another type.

        Inputs:
            rows: rows of a stage, with what decides about them
        """
        names = rows.table.column_names
        if self.column not in names:
            raise ColumnError(f"{self.place.node}: no column {self.column!r}; there are {', '.join(names)}")
        kind, values = rows.table.schema.field(self.column).type, rows.numpy(self.column)
        is_fit = pa.types.is_string(kind) if self.one_of else values.ndim == 1 and values.dtype.kind in "iuf"
        if not is_fit:
            wanted = "texts for one_of" if self.one_of else "numbers for at_least and at_most"
            raise ColumnError(f"{self.place.node}: column {self.column!r} does not hold {wanted}")
        if self.one_of:
            going = np.isin(values.astype(str), self.one_of)
        else:
            low = -np.inf if self.at_least is None else self.at_least
            going = (values >= low) & (values <= (np.inf if self.at_most is None else self.at_most))
        log.metric("kept", float(going.mean()) if len(rows) else 0.0)
        return rows.where(going)
