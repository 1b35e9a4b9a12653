"""Common steps of all rewards: skip failed rows, judge within a time limit, record rows that could not be judged."""

import math
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
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
from genrl_graph.nodes.reward.scoring.authors import positions_by_author
from genrl_graph.nodes.worker.worker import Failure, OutOfTime, WorkerError, WorkerRaised
from genrl_graph.nodes.worker.worker_main import load_target
from genrl_graph.nodes.worker.worker_pool import shared_pool

Texts = TypeVar("Texts", bound=Rollouts, default=Rollouts)
Verdict = Mapping[str, float] | Failure


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"no regular expression: {error}") from error
    except RecursionError as error:
        raise ValueError("no regular expression: it is nested too deeply; split it") from error
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
    target: str,
    calls: Mapping[int, Mapping[str, object]],
    *,
    timeout_s: float | None,
    node: str,
    until: float = math.inf,
) -> dict[int, object]:
    """Call `target` with each call's keywords; return values by key, `Failure` for a call that raised, hung or crashed.

    `timeout_s` limits each call in the worker process; None calls in this process, without a limit. Calls that have
    not ended, or in this process not begun, at the monotonic time `until` get `OutOfTime`. Raises `RewardFailed` if
    the worker cannot start.
    """
    if timeout_s is None:
        function = load_target(target)
        return {at: call_until(until, _call_or_failure, function, keywords) for at, keywords in calls.items()}
    if not calls:
        return {}
    try:
        values = shared_pool(target, timeout_s).map_rows(list(calls.values()), until=until)
    except WorkerError as error:
        raise RewardFailed(f"{node}: {error}") from error
    return dict(zip(calls, values, strict=True))


def call_until(until: float, function: Callable[..., object], *arguments: object) -> object:
    """Call a function in this process, where nothing can end it; at the time `until` it is `OutOfTime` instead."""
    return function(*arguments) if time.monotonic() < until else OutOfTime()


def call_together(
    target: str,
    calls: Mapping[int, Mapping[str, object]],
    *,
    timeout_s: float | None,
    node: str,
    until: float = math.inf,
) -> dict[int, object]:
    """Call `target` once with the list of all `calls`; if that fails or exceeds `timeout_s`, call it row by row.

    `target` takes a list `calls` of keywords and returns a list of values. One call is faster: for a cheap function,
    sending each row to the worker costs more than judging it. Otherwise as `call_each`.
    """
    if not calls:
        return {}
    call = partial(call_each, target, timeout_s=timeout_s, node=node, until=until)
    together = call({0: {"calls": list(calls.values())}})[0]
    if isinstance(together, list):
        return dict(zip(calls, together, strict=True))
    alone = call({at: {"calls": [keywords]} for at, keywords in calls.items()})
    return {at: value[0] if isinstance(value, list) else value for at, value in alone.items()}


def extract_answers(
    completions: Mapping[int, str],
    pattern: str | None,
    *,
    timeout_s: float | None,
    node: str,
    until: float = math.inf,
) -> dict[int, str | Failure | None]:
    """Return the answer in each completion (`answers.extract_answer`); a `pattern` runs in a worker process."""
    if pattern is None:  # the built-in patterns need no time limit
        return {at: extract_answer(completion, None) for at, completion in completions.items()}
    calls = {at: {"completion": completion, "pattern": pattern} for at, completion in completions.items()}
    target = f"{extract_each.__module__}:extract_each"
    answers = call_together(target, calls, timeout_s=timeout_s, node=node, until=until)
    assert all(isinstance(value, str | None | Failure) for value in answers.values())
    return answers  # type: ignore[return-value]  # as asserted


def _call_or_failure(function: object, keywords: Mapping[str, object]) -> object:
    assert callable(function)
    try:
        return function(**keywords)
    except Exception as error:  # the row is recorded as not judged, with this reason
        return Failure(str(WorkerRaised.of(error)))


def score_rows(
    rows: R,
    verdicts: Mapping[int, Verdict],
    *,
    weights: Mapping[str, float],
    node: Reward,
    log: Log,
    peer: str = "",
    excused: Collection[int] = (),
) -> Scored[R]:
    """Add the terms in `weights` and their weighted sum to the rows; rows without a verdict get NaN.

    `verdicts` holds one entry per row position that was judged. Rows that could not be judged are logged in the table
    `failures` (id, reason). Raises `RewardFailed` if their share among the rows of `peer` ("": all rows) exceeds the
    node's `max_unjudged`; rows at the positions `excused` do not count, because rows of other peers are the reason.
    """
    terms = {name: np.full(len(rows), np.nan) for name in weights}
    reasons: dict[int, str] = {}
    for at, verdict in verdicts.items():
        if isinstance(verdict, Failure):
            reasons[at] = verdict.reason
            continue
        for name, values in terms.items():
            values[at] = verdict[name]
        if unjudged := [f"{name} is {verdict[name]:g}" for name in terms if not math.isfinite(verdict[name])]:
            reasons[at] = f"could not be judged: {', '.join(unjudged)}"
    if reasons:
        own = set(positions_by_author(rows, list(verdicts), peer).get(peer, ())) - set(excused)
        _limit_unjudged(len(own), [reasons[at] for at in sorted(reasons) if at in own], node)
        _record(rows, reasons, excused, log)
    return score(rows, terms, weights=weights)


def _limit_unjudged(total: int, reasons: Sequence[str], node: Reward) -> None:
    """Raise `RewardFailed` if the rows with these reasons are more of the `total` than may stay unjudged."""
    if len(reasons) > node.max_unjudged * total:
        share = "none" if len(reasons) == total else f"only {total - len(reasons)}"
        what = f"{share} of {total} rows could be judged (max_unjudged is {node.max_unjudged:g})"
        raise RewardFailed(f"{node.place.node}: {what}; the first: {reasons[0]}")


def _record(rows: Frame, reasons: Mapping[int, str], excused: Collection[int], log: Log) -> None:
    """Log the table `failures`, and which rows the loop must not count either."""
    names = rows.values("id") if "id" in rows.table.column_names else list(map(str, range(len(rows))))
    log.excused |= {names[at] for at in excused}
    positions = sorted(reasons)
    # a lone surrogate cannot be encoded as UTF-8
    texts = [reasons[at].encode(errors="replace").decode() for at in positions]
    log.rows("failures", {"id": [names[at] for at in positions], "reason": texts})


def number(value: object) -> float:
    """Return a worker's value as a float; raises `RewardFailed` if it is not a number."""
    if isinstance(value, int | float):
        return float(value)
    raise RewardFailed(f"{value!r} is no reward; give a number")
