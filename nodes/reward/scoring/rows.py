"""Common steps of all rewards: skip failed rows, judge within a time limit, record rows that could not be judged."""

import math
import re
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import AfterValidator
from typing_extensions import TypeVar

from genrl_graph.contract.node import Reward
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import R, Rollouts, Scored, score
from genrl_graph.errors import RewardFailed
from genrl_graph.nodes.reward.scoring.answers import extract_answer, extract_each
from genrl_graph.nodes.reward.worker.worker import Failure, WorkerError, WorkerRaised
from genrl_graph.nodes.reward.worker.worker_main import load_target
from genrl_graph.nodes.reward.worker.worker_pool import shared_pool

Texts = TypeVar("Texts", bound=Rollouts, default=Rollouts)
Verdict = Mapping[str, float] | Failure


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return pattern


def _is_term(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError("a term becomes the column reward_<term>: letters, digits and _ only")
    return name


Regex = Annotated[str, AfterValidator(_compiles)]
Term = Annotated[str, AfterValidator(_is_term)]


def judgeable(rows: Frame) -> list[int]:
    """Return the positions of the rows that did not fail."""
    if "finish_reason" not in rows.table.column_names:
        return list(range(len(rows)))
    return [at for at, finish in enumerate(rows.values("finish_reason")) if finish != "failed"]


def call_each(
    target: str, calls: Mapping[int, Mapping[str, object]], *, timeout_s: float | None, node: str
) -> dict[int, object]:
    """Call `target` with each call's keywords; return values by key, `Failure` for a call that raised, hung or crashed.

    `timeout_s` limits each call in the worker process; None calls in this process, without a limit. Raises
    `RewardFailed` if the worker cannot start.
    """
    if timeout_s is None:
        function = load_target(target)
        return {at: _call_or_failure(function, keywords) for at, keywords in calls.items()}
    if not calls:
        return {}
    try:
        values = shared_pool(target, timeout_s).map_rows(list(calls.values()))
    except WorkerError as error:
        raise RewardFailed(f"{node}: {error}") from error
    return dict(zip(calls, values, strict=True))


def call_together(
    target: str, calls: Mapping[int, Mapping[str, object]], *, timeout_s: float | None, node: str
) -> dict[int, object]:
    """Call `target` once with the list of all `calls`; if that fails or exceeds `timeout_s`, call it row by row.

    `target` takes a list `calls` of keywords and returns a list of values. One call is faster: for a cheap function,
    sending each row to the worker costs more than judging it. Otherwise as `call_each`.
    """
    if not calls:
        return {}
    together = call_each(target, {0: {"calls": list(calls.values())}}, timeout_s=timeout_s, node=node)[0]
    if isinstance(together, list):
        return dict(zip(calls, together, strict=True))
    alone = call_each(target, {at: {"calls": [call]} for at, call in calls.items()}, timeout_s=timeout_s, node=node)
    return {at: value[0] if isinstance(value, list) else value for at, value in alone.items()}


def extract_answers(
    completions: Mapping[int, str], pattern: str | None, *, timeout_s: float | None, node: str
) -> dict[int, str | Failure | None]:
    """Return the answer in each completion (`answers.extract_answer`); a `pattern` runs in a worker process."""
    if pattern is None:  # the built-in patterns need no time limit
        return {at: extract_answer(completion, None) for at, completion in completions.items()}
    calls = {at: {"completion": completion, "pattern": pattern} for at, completion in completions.items()}
    answers = call_together(f"{extract_each.__module__}:extract_each", calls, timeout_s=timeout_s, node=node)
    assert all(isinstance(value, str | None | Failure) for value in answers.values())
    return answers  # type: ignore[return-value]  # as asserted


def _call_or_failure(function: object, keywords: Mapping[str, object]) -> object:
    assert callable(function)
    try:
        return function(**keywords)
    except Exception as error:  # the row is recorded as not judged, with this reason
        return Failure(str(WorkerRaised.of(error)))


def score_rows(
    rows: R, verdicts: Mapping[int, Verdict], *, weights: Mapping[str, float], node: Reward, log: Log
) -> Scored[R]:
    """Add the terms in `weights` and their weighted sum to the rows; rows without a verdict get NaN.

    `verdicts` holds one entry per row position that was judged. Rows that could not be judged are logged in the table
    `failures` (id, reason). Raises `RewardFailed` if their share exceeds the node's `max_unjudged`.
    """
    terms = {name: np.full(len(rows), np.nan) for name in weights}
    reasons: dict[int, str] = {}
    for at, verdict in verdicts.items():
        if isinstance(verdict, Failure):
            reasons[at] = verdict.reason
            continue
        for name, values in terms.items():
            values[at] = verdict[name]
        if any(not math.isfinite(verdict[name]) for name in terms):
            reasons[at] = "could not be judged"
    _record(rows, len(verdicts), reasons, node, log)
    return score(rows, terms, weights=weights)


def _record(rows: Frame, total: int, reasons: Mapping[int, str], node: Reward, log: Log) -> None:
    if not reasons:
        return
    first = reasons[min(reasons)]
    if len(reasons) > node.max_unjudged * total:
        share = "none" if len(reasons) == total else f"only {total - len(reasons)}"
        limit = f"max_unjudged is {node.max_unjudged:g}"
        raise RewardFailed(f"{node.place.node}: {share} of {total} rows could be judged ({limit}); the first: {first}")
    names = rows.values("id") if "id" in rows.table.column_names else list(map(str, range(len(rows))))
    positions = sorted(reasons)
    # a lone surrogate cannot be encoded as UTF-8
    texts = [reasons[at].encode(errors="replace").decode() for at in positions]
    log.rows("failures", {"id": [names[at] for at in positions], "reason": texts})


def number(value: object) -> float:
    """Return a worker's value as a float; raises `RewardFailed` if it is not a number."""
    if isinstance(value, int | float):
        return float(value)
    raise RewardFailed(f"{value!r} is no reward; give a number")
