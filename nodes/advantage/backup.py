"""`advantage.backup`: credit a row with the rewards of later rows that quote it."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import TypeVar

from genrl_graph.contract.origins import RowOrigin
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, Rollouts, Scored, credit
from genrl_graph.nodes.advantage.baseline import BaselineAdvantage, Floats, log_mean
from genrl_graph.nodes.groups import Scope, alike_groups, group_codes

Quoted = TypeVar("Quoted", bound=Rollouts, default=Rollouts)
BackupRule = Literal["mean", "max", "difference"]


class BackupAdvantage(BaselineAdvantage, name="backup"):
    """Own reward plus a backed-up value of the later rows that quote the row, minus the mean value of the group.

    The children of a row are the rows of `later` with the same task whose `parent_ids` contain its id; rows without a
    finite reward are ignored. A child's value is its reward times `discount` per stage between the two. `how` combines
    the children: `mean`, `max`, or `difference`, the mean of the children minus the mean of the task's rows that did
    not quote the row (undefined if all of them did). Each input of `later` is backed up separately and the results are
    averaged, so a stage with many rows does not outweigh one with few.

    The value of a row is `own` * reward + `backed_up` * backed-up value; with `own` 0 a row with children needs no
    reward. A row without a backed-up value gets the value `own` * reward (`childless: own`) or the advantage NaN
    (`leave_out`). The mean is that of `advantage.group`.

    With `depth: leaves` the rows of all inputs of `later` are one tree, and a child's value is itself backed up from
    the rows that quote the child, stage by stage. A row that none quotes is a leaf, and worth its reward. With the mean
    this is the Monte Carlo value of VinePPO (arXiv 2410.01679), less that of the row's siblings; with the max, the best
    leaf that was reached.
    """

    how: BackupRule = Field(
        default="mean",
        description="value that the rows which quote a row give it: their mean, their max, or their mean "
        "minus that of other rows",
    )
    own: float = Field(default=1.0, allow_inf_nan=False, description="weight of the row's own reward in its value")
    backed_up: float = Field(
        default=1.0, allow_inf_nan=False, description="weight of the backed-up value of the rows that quote it"
    )
    depth: Literal["children", "leaves"] = Field(
        default="children",
        description="what a later row gives to the row that it quotes: its reward (children), or its own value in the "
        "tree, backed up from the leaves (leaves)",
    )
    discount: float = Field(
        default=1.0, ge=0, le=1, description="factor on a later reward for each stage between the two rows; 1: none"
    )
    childless: Literal["own", "leave_out"] = Field(
        default="own", description="a row that none quotes: own gives it its own reward, leave_out the advantage NaN"
    )
    scope: Scope = "group"

    def check_origins(self, origins: Mapping[str, Sequence[RowOrigin]]) -> Iterable[str]:
        """Report rows from which nothing is ever learned, and later rows that quote none of those they should."""
        for why in alike_groups(origins.get("scored", ()), self.scope):
            yield f"can never learn: {why}"
        quoted = {origin.name for origin in origins.get("scored", ())}
        later = {origin.name: origin for origin in origins.get("later", ())}
        tree = quoted | later.keys() if self.depth == "leaves" else quoted
        for name, origin in later.items() if quoted else ():
            if not (tree - {name}) & set(origin.quotes):
                yield _quotes_nothing(origin, sorted(quoted), is_tree=self.depth == "leaves")

    @model_validator(mode="after")
    def _rule_fits_the_depth(self) -> Self:
        if self.depth == "leaves" and self.how == "difference":
            raise ValueError(
                "how is difference, which compares the rows of one stage; with depth leaves use mean or max"
            )
        return self

    def run(self, scored: Scored[Quoted], later: list[Scored[Rollouts]], *, log: Log) -> Credited[Quoted]:
        """Add an `advantage` to the rows; log the table `backup` (id, judged children, backed-up value, value).

        Inputs:
            scored: rows that get the advantage
            later: rows of later stages that quote them in `parent_ids`, each input with its rewards
        """
        rewards = np.where(np.isfinite(scored.numpy("reward")), scored.numpy("reward"), np.nan)
        children, backed_up = self._backed_up(scored, later)
        values = self._values(rewards, backed_up)
        log_mean(log, "reward", rewards)
        log_mean(log, "backed_up", backed_up)
        if len(scored):
            log.metric("childless", np.isnan(backed_up).mean())
        columns = {"children": children, "backed_up": backed_up.tolist(), "value": values.tolist()}
        log.rows("backup", {"id": scored.values("id"), **columns})
        return credit(scored, self.group_advantages(group_codes(scored, self.scope), values, log=log))

    def _values(self, rewards: Floats, backed_up: Floats) -> Floats:
        own = self.own * rewards
        leaf = rewards if self.depth == "leaves" else own
        childless = leaf if self.childless == "own" else np.full(len(own), np.nan)
        quoted = self.backed_up * backed_up + (own if self.own else 0.0)
        return np.where(np.isnan(backed_up), childless, quoted)

    def _backed_up(self, scored: Rollouts, later: Sequence[Rollouts]) -> tuple[list[int], Floats]:
        """Return each row's number of judged children and its backed-up value (NaN without one)."""
        if self.depth == "leaves":
            return self._backed_up_from_leaves(scored, later)
        children, backed_up = [0] * len(scored), np.full(len(scored), np.nan)
        stages = scored.numpy("stage").astype(np.int64)
        keys = list(zip(scored.values("task_id"), scored.values("id"), strict=True))
        for stage in np.unique(stages):
            inputs = [QuotingRows(rows, stage=int(stage), discount=self.discount) for rows in later]
            for at in np.flatnonzero(stages == stage).tolist():
                children[at] = sum(len(quoting.children.get(keys[at], ())) for quoting in inputs)
                values = [v for quoting in inputs if (v := quoting.back_up(*keys[at], self.how)) is not None]
                if values:
                    backed_up[at] = float(sum(values) / Fraction(len(values)))
        return children, backed_up

    def _backed_up_from_leaves(self, scored: Rollouts, later: Sequence[Rollouts]) -> tuple[list[int], Floats]:
        """Return each row's number of valued children and its backed-up value in the tree (NaN without one)."""
        values: dict[tuple[str, str], list[tuple[float, int]]] = {}  # of the children of a row, each with its stage
        rows = [row for each in later for row in each.rows("task_id", "id", "parent_ids", "stage", "reward")]
        # the last stages first: no row is a child of one in its own stage or a later one, whatever a peer claims
        for stage in sorted({row["stage"] for row in rows}, reverse=True):
            of_stage = [row for row in rows if row["stage"] == stage]
            own = [
                self._tree_value(row["reward"], values.get((row["task_id"], row["id"]), ()), stage) for row in of_stage
            ]
            for row, value in zip(of_stage, own, strict=True):
                for parent in set(row["parent_ids"]) if np.isfinite(value) else ():
                    values.setdefault((row["task_id"], parent), []).append((value, stage))
        columns = zip(scored.values("task_id"), scored.values("id"), scored.values("stage"), strict=True)
        children = [(values.get((task_id, id), []), stage) for task_id, id, stage in columns]
        return [len(each) for each, _ in children], np.asarray([self._combined(*each) for each in children], float)

    def _tree_value(self, reward: float, children: Sequence[tuple[float, int]], stage: int) -> float:
        """Return the value of a row of the tree: that of its children, or, of a leaf, its reward."""
        combined = self._combined(children, stage)
        if np.isnan(combined):
            return reward
        return self.backed_up * combined + (self.own * reward if self.own else 0.0)

    def _combined(self, children: Sequence[tuple[float, int]], stage: int) -> float:
        """Return the mean or the max of discounted values, NaN if there are none; in any order of the children."""
        values = [value * self.discount ** max(at - stage, 1) for value, at in children]
        if not values:
            return float("nan")
        return max(values) if self.how == "max" else float(_exact_sum(values) / len(values))


def _quotes_nothing(origin: RowOrigin, quoted: Sequence[str], *, is_tree: bool) -> str:
    """Return that a later generator quotes no row to which it could back up, and what it quotes instead."""
    others = ", ".join(map(repr, origin.quotes)) or "no rows"
    wanted = " or ".join(map(repr, quoted)) + (" or of another input of later" if is_tree else "")
    advice = "add the rewards of those to later" if is_tree and origin.quotes else "leave it out of later"
    advice = "use depth: leaves, and add the rewards of those to later" if not is_tree and origin.quotes else advice
    return f"'{origin.name}' quotes {others}, and no row of {wanted}, so it backs up nothing; {advice}"


class QuotingRows:
    """The judged rows of one later input, their rewards discounted to `stage`, indexed by task and quoted row.

    Sums are exact fractions, so the order of the rows cannot change the credit.
    """

    def __init__(self, rows: Rollouts, *, stage: int, discount: float) -> None:
        # at least 1: another peer may write any stage into its rows
        stages_between = np.maximum(rows.numpy("stage").astype(np.int64) - stage, 1)
        discounted = (rows.numpy("reward") * discount**stages_between).tolist()
        self.children: dict[tuple[str, str], list[float]] = {}
        self._of_task: dict[str, list[float]] = {}
        for task_id, parents, value in zip(rows.values("task_id"), rows.values("parent_ids"), discounted, strict=True):
            if not np.isfinite(value):
                continue
            self._of_task.setdefault(task_id, []).append(value)
            for parent in set(parents):
                self.children.setdefault((task_id, parent), []).append(value)
        self._totals = {task_id: _exact_sum(values) for task_id, values in self._of_task.items()}

    def back_up(self, task_id: str, id: str, how: BackupRule) -> Fraction | None:
        """Return the backed-up value of a row; None if no row quotes it or the difference is undefined."""
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
