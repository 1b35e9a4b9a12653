"""`advantage.backup`: what a row led to in later stages, credited to the row."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import Field
from typing_extensions import TypeVar

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, Rollouts, Scored, credit
from genrl_graph.nodes.advantage.baseline import BaselineAdvantage, Floats, log_mean
from genrl_graph.nodes.groups import Scope, group_codes

Quoted = TypeVar("Quoted", bound=Rollouts, default=Rollouts)
How = Literal["mean", "max", "difference"]


class BackupAdvantage(BaselineAdvantage, name="backup"):
    """Own reward plus the reward of the later rows that quoted it, against the mean of the group.

    The children of a row are the rows of `later` of its task whose `parent_ids` name it; one without a finite reward
    counts as none. A child is worth its reward times `discount` for each stage between. `how` backs that up: the
    `mean` of the children, their `max`, or the `difference` between their mean and that of the rows of the task that
    did not quote it, which is what it improved; an input in which all quoted it has no such evidence. Each input of
    `later` is backed up by itself, and their values are averaged: a stage of many rows drowns none of few.

    The value of a row is `own` * reward + `backed_up` * backed-up value, so a row with `own` 0 and children needs no
    reward. A row that nobody quoted, or without evidence, is worth `own` * reward (`childless: own`), or has no value
    and gets NaN (`leave_out`). `scope`, `scale` and `leave_one_out` are those of `advantage.group`.
    """

    how: How = "mean"
    own: float = Field(1.0, allow_inf_nan=False)
    backed_up: float = Field(1.0, allow_inf_nan=False)
    discount: float = Field(1.0, ge=0, le=1)
    childless: Literal["own", "leave_out"] = "own"
    scope: Scope = "group"

    def run(self, scored: Scored[Quoted], later: list[Scored[Rollouts]], *, log: Log) -> Credited[Quoted]:
        """The rows with an `advantage`; logs the table `backup` (id, judged children, backed-up value, value)."""
        rewards = np.where(np.isfinite(scored.numpy("reward")), scored.numpy("reward"), np.nan)
        children, backed_up = self._backed_up(scored, later)
        values = self._values(rewards, backed_up)
        log_mean(log, "reward", rewards)
        log_mean(log, "backed_up", backed_up)
        if len(scored):
            log.metric("childless", np.isnan(backed_up).mean())
        told = {"children": children, "backed_up": backed_up.tolist(), "value": values.tolist()}
        log.rows("backup", {"id": scored.values("id"), **told})
        return credit(scored, self.against(group_codes(scored, self.scope), values, log=log))

    def _values(self, rewards: Floats, backed_up: Floats) -> Floats:
        own = self.own * rewards
        alone = own if self.childless == "own" else np.full(len(own), np.nan)
        quoted = self.backed_up * backed_up + (own if self.own else 0.0)
        return np.where(np.isnan(backed_up), alone, quoted)

    def _backed_up(self, scored: Rollouts, later: Sequence[Rollouts]) -> tuple[list[int], Floats]:
        """For each row its number of judged children and its backed-up value, NaN where there is none."""
        children, backed_up = [0] * len(scored), np.full(len(scored), np.nan)
        stages = scored.numpy("stage").astype(np.int64)
        keys = list(zip(scored.values("task_id"), scored.values("id"), strict=True))
        for stage in np.unique(stages):
            readers = [QuotingRows(rows, stage=int(stage), discount=self.discount) for rows in later]
            for at in np.flatnonzero(stages == stage).tolist():
                children[at] = sum(len(of.children.get(keys[at], ())) for of in readers)
                found = [value for of in readers if (value := of.back_up(*keys[at], self.how)) is not None]
                if found:
                    backed_up[at] = float(sum(found) / Fraction(len(found)))
        return children, backed_up


class QuotingRows:
    """The judged rows of a later stage, each worth its reward discounted to `stage`, by what they quoted.

    Sums are exact: equal evidence gives equal credit, whatever the order and the number of the rows.
    """

    def __init__(self, rows: Rollouts, *, stage: int, discount: float) -> None:
        # a reader is at least one stage later, whatever the peer who made it wrote
        between = np.maximum(rows.numpy("stage").astype(np.int64) - stage, 1)
        worth = (rows.numpy("reward") * discount**between).tolist()
        self.children: dict[tuple[str, str], list[float]] = {}
        self._of_task: dict[str, list[float]] = {}
        for task_id, parents, value in zip(rows.values("task_id"), rows.values("parent_ids"), worth, strict=True):
            if not np.isfinite(value):
                continue
            self._of_task.setdefault(task_id, []).append(value)
            for parent in set(parents):
                self.children.setdefault((task_id, parent), []).append(value)
        self._totals = {task_id: _exact_sum(values) for task_id, values in self._of_task.items()}

    def back_up(self, task_id: str, id: str, how: How) -> Fraction | None:
        """What those who quoted a row say about it; None where they say nothing."""
        quoting = self.children.get((task_id, id))
        if quoting is None:
            return None
        if how == "max":
            return Fraction(max(quoting))
        total, count = _exact_sum(quoting), len(quoting)
        if how == "mean":
            return total / count
        others = len(self._of_task[task_id]) - count
        return total / count - (self._totals[task_id] - total) / others if others else None


def _exact_sum(values: Sequence[float]) -> Fraction:
    return sum(map(Fraction, values), Fraction(0))
