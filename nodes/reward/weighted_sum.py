"""`reward.weighted_sum`: one reward from the terms of several rewards."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.exact_numbers import ExactNumbers
from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import R, Scored
from genrl_graph.errors import ColumnError, RewardFailed
from genrl_graph.messages import did_you_mean
from genrl_graph.nodes.reward.scoring.authors import positions_by_author
from genrl_graph.nodes.reward.scoring.rows import Term

Floats = NDArray[np.float64]
Clip = tuple[FiniteFloat | None, FiniteFloat | None]
PREFIX = "reward_"


class TermWeight(ExactNumbers):
    """Weight of a term: `weight` times its value, clipped to `clip` (low, high).

    The weight is 0 before `start_round`, then rises linearly from 0 to `weight` over `warmup_rounds` rounds (0: the
    full weight at once).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: FiniteFloat = Field(default=1.0, description="factor on the term; 0 only logs it")
    clip: Clip | None = Field(
        default=None,
        description="least and largest value of the term before it is weighted, null for no limit; null: not clipped",
    )
    warmup_rounds: int = Field(
        default=0, ge=0, description="rounds over which the weight rises linearly from 0; 0: full weight at once"
    )
    start_round: int = Field(
        default=0, ge=0, description="first round in which the term may count; its weight is 0 before"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.clip or (None, None)
        if self.clip is not None and (low is high is None or (low is not None and high is not None and low > high)):
            raise ValueError(f"clip is {list(self.clip)}; write [low, high] with low at most high, null for no limit")
        return self

    def at(self, round: int) -> float:
        """Return the weight in a round."""
        since = round - self.start_round
        if since < 0:
            return 0.0
        return self.weight * (min(since / self.warmup_rounds, 1.0) if self.warmup_rounds else 1.0)


def _number_as_weight(value: object) -> object:
    return {"weight": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class WeightedSum(Reward, name="weighted_sum"):
    """Replaces the reward by the sum of all terms, each weighted, clipped and warmed up.

    The inputs are rewards of the same rows, joined by id, or the last reward of a chain; the weights of these rewards
    no longer count. `terms` maps a name (`correct` for the column `reward_correct`) to its weight, a number or a
    `TermWeight`. A term that is not listed has the weight `others`; if that is None it is an error. A row with a term
    that could not be judged gets NaN; with `on_nan: skip_term` only that term is skipped, as long as the row has
    another one. A term of `weight` 0 is only logged and need not be judged; one that is still warming up must be.
    """

    terms: dict[
        Term, Annotated[TermWeight, BeforeValidator(_number_as_weight, json_schema_input_type=float | TermWeight)]
    ] = Field(default={}, description="weight of each term by name, a number or a mapping")
    others: FiniteFloat | None = Field(
        default=None, description="weight of the terms that `terms` does not name; null: such a term is an error"
    )
    on_nan: Literal["leave_out", "skip_term"] = Field(
        default="leave_out",
        description="a row with a term that could not be judged: leave it out (NaN), or skip only that term",
    )

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if not self.others and not any(term.weight for term in self.terms.values()):
            raise ValueError("no term counts; give `terms` one with a weight other than 0, or set `others`")
        return self

    def evaluated(self, how: Evaluation) -> Self:
        """Return the sum without warm-up, so that all evaluations measure the same."""
        full = {"warmup_rounds": 0, "start_round": 0}
        return self.model_copy(
            update={"terms": {name: term.model_copy(update=full) for name, term in self.terms.items()}}
        )

    def run(self, scored: list[Scored[R]], *, round: int, log: Log, peer: str = "") -> Scored[R]:
        """Add the terms of all inputs to the rows of the first, with their sum as `reward`.

        Raises `ColumnError` if the inputs hold different rows, if two of them share a term, or if a listed term is in
        none; `RewardFailed` if more than `max_unjudged` of the own rows with a judged term are left out.

        Inputs:
            scored: rewards of the same rows, or the last reward of a chain
        """
        columns = _join_terms(scored)
        weights = self._weights([name.removeprefix(PREFIX) for name in columns])
        counted = {term: weight for term, weight in weights.items() if weight.weight}
        values = {term: columns[PREFIX + term] for term in counted}
        judged = np.isfinite(np.stack(list(values.values())))
        any_judged: NDArray[np.bool_] = np.logical_or.reduce(judged)
        summed: NDArray[np.bool_] = any_judged if self.on_nan == "skip_term" else np.logical_and.reduce(judged)
        total = np.zeros(len(scored[0]))
        for (term, weight), is_judged in zip(counted.items(), judged, strict=True):
            total[is_judged] += weight.at(round) * _clipped(term, values[term][is_judged], weight.clip, log)
        for term, weight in weights.items():
            log.metric(f"weight_{term}", weight.at(round))
        log.metric("left_out", float((any_judged & ~summed).sum() / max(any_judged.sum(), 1)))
        own = np.zeros(len(scored[0]), dtype=bool)
        own[positions_by_author(scored[0], range(len(own)), peer).get(peer, [])] = True
        self._limit_unjudged(dict(zip(counted, judged & own, strict=True)), any_judged & own, summed)
        return scored[0].marked(SCORED, columns | {"reward": np.where(summed, total, np.nan)})

    def _weights(self, terms: list[str]) -> dict[str, TermWeight]:
        """Return the weight of each term of the rows."""
        where = self.place.node
        for name in self.terms:
            if name not in terms:
                hint = did_you_mean(name, terms) or f"; there are {', '.join(terms) or 'none'}"
                raise ColumnError(f"{where}: terms.{name}: no input has this term{hint}")
        unnamed = [name for name in terms if name not in self.terms]
        if unnamed and self.others is None:
            advice = "give it a weight in `terms`, or all that are not named one in `others`"
            raise ColumnError(f"{where}: the term {unnamed[0]!r} is not in `terms`; {advice}")
        return {name: self.terms.get(name) or TermWeight(weight=self.others or 0.0) for name in terms}

    def _limit_unjudged(
        self,
        judged: Mapping[str, NDArray[np.bool_]],
        any_judged: NDArray[np.bool_],
        summed: NDArray[np.bool_],
    ) -> None:
        """Raise `RewardFailed` if more than `max_unjudged` of the rows with a judged term are left out."""
        left_out, total = int((any_judged & ~summed).sum()), int(any_judged.sum())
        if left_out > self.max_unjudged * total:
            worst = min(judged, key=lambda term: int(judged[term].sum()))
            problem = f"{left_out} of {total} rows have a term that could not be judged, most often {worst!r}"
            advice = f"max_unjudged is {self.max_unjudged:g}; mend it, or set on_nan: skip_term"
            raise RewardFailed(f"{self.place.node}: {problem} ({advice})")


def _clipped(term: str, values: Floats, clip: Clip | None, log: Log) -> Floats:
    if clip is None or not len(values):
        return values
    clipped: Floats = np.clip(values, *clip)
    log.metric(f"clipped_{term}", float((clipped != values).mean()))
    return clipped


def _join_terms(inputs: list[Any]) -> dict[str, Floats]:
    """Return the `reward_<term>` columns of all inputs, in the row order of the first input."""
    columns: dict[str, Floats] = {}
    for at, rows in enumerate(inputs):
        assert isinstance(rows, Frame)
        order = None if at == 0 else _positions(inputs[0], rows, at)
        for name in rows.table.column_names:
            if not name.startswith(PREFIX):
                continue
            if name in columns:
                advice = "give one of these rewards another `term`, or read a chain only at its end"
                raise ColumnError(f"the term {name.removeprefix(PREFIX)!r} is in two inputs; {advice}")
            columns[name] = rows.numpy(name) if order is None else rows.numpy(name)[order]
    return columns


def _positions(first: Frame, rows: Frame, at: int) -> NDArray[np.int64]:
    """Return the position in `rows` of each row of `first`; raises `ColumnError` if the row ids differ."""
    expected, ids = first.values("id"), rows.values("id")
    position = {id: index for index, id in enumerate(ids)}
    repeated = len(position) < len(ids) or len(set(expected)) < len(expected)
    missing = [id for id in expected if id not in position]
    extra = sorted(set(ids) - set(expected))
    if repeated or missing or extra:
        lacks = f"input {at} lacks {missing[:3]}" if missing else f"only input {at} has {extra[:3]}"
        problem = "ids stand twice" if repeated else f"{lacks} of {len(expected)} and {len(ids)} rows"
        raise ColumnError(f"rewards of different rows: {problem}; sum rewards of the same rows, before a select")
    return np.array([position[id] for id in expected], dtype=np.int64)
