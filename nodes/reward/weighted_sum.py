"""`reward.weighted_sum`: one reward from the terms of several."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import R, Scored
from genrl_graph.errors import ColumnError, RewardFailed
from genrl_graph.messages import did_you_mean
from genrl_graph.nodes.reward.scoring.rows import Term

Floats = NDArray[np.float64]
Clip = tuple[FiniteFloat | None, FiniteFloat | None]
PREFIX = "reward_"


class TermWeight(BaseModel):
    """How much a term counts: `weight` times its value, cut to `clip` (low, high).

    Before `start_round` it counts 0 times as much, and from then on more, in equal steps of 1 / `warmup_rounds`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: FiniteFloat = 1.0
    clip: Clip | None = None
    warmup_rounds: int = Field(0, ge=0)
    start_round: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.clip or (None, None)
        if self.clip is not None and (low is high is None or (low is not None and high is not None and low > high)):
            raise ValueError(f"clip is {list(self.clip)}; write [low, high] with low at most high, null for no limit")
        return self

    def at(self, round: int) -> float:
        """The weight in a round."""
        since = round - self.start_round
        if since < 0:
            return 0.0
        return self.weight * (min(since / self.warmup_rounds, 1.0) if self.warmup_rounds else 1.0)


def _weight_alone(value: object) -> object:
    return {"weight": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class WeightedSum(Reward, name="weighted_sum"):
    """Replaces the reward by the sum of its terms, each weighted, clipped and warmed up.

    The terms are those of all inputs: rewards of the same rows, computed side by side and joined by id, or the end
    of one chain; how these rewards weigh their own terms no longer counts. `terms` are by name (`correct` is the
    column `reward_correct`), a number alone is a weight; a term that is not named counts `others` times, or is an
    error where that is None. A term that could not be judged leaves its row out, or with `on_nan: skip_term` only
    itself, as long as one term is left. One whose weight is 0 is only watched: whether it was judged changes nothing,
    while one that still warms up must be judged.
    """

    terms: dict[
        Term, Annotated[TermWeight, BeforeValidator(_weight_alone, json_schema_input_type=float | TermWeight)]
    ] = {}
    others: FiniteFloat | None = None
    on_nan: Literal["leave_out", "skip_term"] = "leave_out"

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if not self.others and not any(term.weight for term in self.terms.values()):
            raise ValueError("no term counts; give `terms` one with a weight other than 0, or set `others`")
        return self

    def evaluated(self, how: Evaluation) -> Self:
        """The sum with its full weights, so that all evaluations measure the same."""
        full = {"warmup_rounds": 0, "start_round": 0}
        return self.model_copy(
            update={"terms": {name: term.model_copy(update=full) for name, term in self.terms.items()}}
        )

    def run(self, scored: list[Scored[R]], *, round: int, log: Log) -> Scored[R]:
        """The rows of the first input with the terms of all, and their sum as `reward`.

        Raises `ColumnError` for inputs of different rows, for a term that two of them have, and for one that none
        has; `RewardFailed` where more than `max_unjudged` of the rows with a judged term are left out.
        """
        columns = _joined(scored)
        weights = self._weights([name.removeprefix(PREFIX) for name in columns])
        counted = {term: weight for term, weight in weights.items() if weight.weight}
        values = {term: columns[PREFIX + term] for term in counted}
        judged = np.isfinite(np.stack(list(values.values())))
        some: NDArray[np.bool_] = np.logical_or.reduce(judged)
        kept: NDArray[np.bool_] = some if self.on_nan == "skip_term" else np.logical_and.reduce(judged)
        total = np.zeros(len(scored[0]))
        for (term, weight), known in zip(counted.items(), judged, strict=True):
            total[known] += weight.at(round) * _clipped(term, values[term][known], weight.clip, log)
        for term, weight in weights.items():
            log.metric(f"weight_{term}", weight.at(round))
        self._refuse_too_few(dict(zip(counted, judged, strict=True)), some, kept, log)
        return scored[0].marked(SCORED, columns | {"reward": np.where(kept, total, np.nan)})

    def _weights(self, found: list[str]) -> dict[str, TermWeight]:
        """For each term of the rows its weight."""
        where = self.place.node
        for name in self.terms:
            if name not in found:
                hint = did_you_mean(name, found) or f"; there are {', '.join(found) or 'none'}"
                raise ColumnError(f"{where}: terms.{name}: no input has this term{hint}")
        unnamed = [name for name in found if name not in self.terms]
        if unnamed and self.others is None:
            advice = "give it a weight in `terms`, or all that are not named one in `others`"
            raise ColumnError(f"{where}: the term {unnamed[0]!r} is not in `terms`; {advice}")
        return {name: self.terms.get(name) or TermWeight(weight=self.others or 0.0) for name in found}

    def _refuse_too_few(
        self, judged: Mapping[str, NDArray[np.bool_]], some: NDArray[np.bool_], kept: NDArray[np.bool_], log: Log
    ) -> None:
        """Raise `RewardFailed` where too many of the rows that have a judged term are left out."""
        lost, total = int((some & ~kept).sum()), int(some.sum())
        log.metric("left_out", lost / total if total else 0.0)
        if lost > self.max_unjudged * total:
            worst = min(judged, key=lambda term: int(judged[term].sum()))
            what = f"{lost} of {total} rows have a term that could not be judged, most often {worst!r}"
            advice = f"max_unjudged is {self.max_unjudged:g}; mend it, or set on_nan: skip_term"
            raise RewardFailed(f"{self.place.node}: {what} ({advice})")


def _clipped(term: str, values: Floats, clip: Clip | None, log: Log) -> Floats:
    if clip is None or not len(values):
        return values
    cut: Floats = np.clip(values, *clip)
    log.metric(f"clipped_{term}", float((cut != values).mean()))
    return cut


def _joined(inputs: list[Any]) -> dict[str, Floats]:
    """The `reward_<term>` columns of all inputs, in the order of the first one's rows."""
    columns: dict[str, Floats] = {}
    for at, rows in enumerate(inputs):
        assert isinstance(rows, Frame)
        order = None if at == 0 else _places(inputs[0], rows, at)
        for name in rows.table.column_names:
            if not name.startswith(PREFIX):
                continue
            if name in columns:
                advice = "give one of these rewards another `term`, or read a chain only at its end"
                raise ColumnError(f"the term {name.removeprefix(PREFIX)!r} is in two inputs; {advice}")
            columns[name] = rows.numpy(name) if order is None else rows.numpy(name)[order]
    return columns


def _places(first: Frame, rows: Frame, at: int) -> NDArray[np.int64]:
    """Where each row of `first` is in `rows`; raises `ColumnError` where they are not the same rows."""
    wanted, given = first.values("id"), rows.values("id")
    place = {id: position for position, id in enumerate(given)}
    twice = len(place) < len(given) or len(set(wanted)) < len(wanted)
    missing = [id for id in wanted if id not in place]
    extra = sorted(set(given) - set(wanted))
    if twice or missing or extra:
        lacks = f"input {at} lacks {missing[:3]}" if missing else f"only input {at} has {extra[:3]}"
        what = "ids stand twice" if twice else f"{lacks} of {len(wanted)} and {len(given)} rows"
        raise ColumnError(f"rewards of different rows: {what}; sum rewards of the same rows, before a select")
    return np.array([place[id] for id in wanted], dtype=np.int64)
