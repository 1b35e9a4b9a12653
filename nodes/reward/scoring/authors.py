"""Judge rows author by author: rows of one peer cannot fail or delay the judging of another's.

This is the one place where a reward or select hands rows of several peers to a function, a judge or a replay.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from genrl_graph.contract.resources import OVER_BUDGET, Log
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import GenrlGraphError
from genrl_graph.nodes.worker.worker import Failure, OutOfTime, WorkerRaised

OWN_TIMES = 4  # a peer's rows may take this many times as long as the own ones

T = TypeVar("T")
Judge = Callable[[list[int], float], Mapping[int, T | Failure]]
"""Judges the rows at these positions, all of one author, until this monotonic time."""


def judge_by_author(
    rows: Frame, positions: Sequence[int], judge: Judge[T], *, peer: str, seconds: float, log: Log
) -> dict[int, T | Failure]:
    """Call `judge` once per author, with the rows of `peer` first, and return all verdicts by position.

    What `judge` raises for own rows is raised. For another peer it leaves the rows of that peer unjudged, as does the
    end of its time: `seconds`, or `OWN_TIMES` the time of the own rows. The log gets the time of each other peer, and
    as a fact the rows that lacked time; where `log.cut` has them already, nothing is measured. With `peer` "" all rows
    are own.
    """
    verdicts: dict[int, T | Failure] = {}
    budget = seconds
    for author, at in positions_by_author(rows, positions, peer).items():
        started = time.monotonic()
        if author == peer:
            verdicts |= judge(at, math.inf)
            budget = max(seconds, OWN_TIMES * (time.monotonic() - started))
            continue
        verdicts |= _judge_other(rows, author, at, judge, budget, log)
        log.seconds[author] = log.seconds.get(author, 0.0) + time.monotonic() - started
    return {at: verdicts[at] for at in sorted(verdicts)}


def positions_by_author(rows: Frame, positions: Sequence[int], peer: str) -> dict[str, list[int]]:
    """Return the positions of the rows of each author: `peer` first, the others by name."""
    if not peer or "peer" not in rows.table.column_names:
        return {peer: list(positions)} if positions else {}
    names = rows.values("peer")
    authors = sorted({names[at] for at in positions}, key=lambda name: (name != peer, name))
    return {author: [at for at in positions if names[at] == author] for author in authors}


def _judge_other(
    rows: Frame, author: str, positions: list[int], judge: Judge[T], budget: float, log: Log
) -> dict[int, T | Failure]:
    """Judge the rows of another peer within its budget; nothing that happens to them is raised."""
    ids = rows.values("id") if "id" in rows.table.column_names else list(map(str, range(len(rows))))
    without_time: set[str] = set()
    until = time.monotonic() + budget
    if log.cut is not None:
        without_time, until = set(log.cut.get(author, ())), math.inf
    judged = [at for at in positions if ids[at] not in without_time]
    verdicts: dict[int, T | Failure] = dict.fromkeys(positions, OutOfTime())
    if judged:
        try:
            verdicts |= judge(judged, until)
        except GenrlGraphError as error:
            verdicts |= dict.fromkeys(judged, Failure(str(error)))
        except Exception as error:  # of any kind: what another peer sent must not end this one, and the row says why
            verdicts |= dict.fromkeys(judged, Failure(str(WorkerRaised.of(error))))
    if cut := [ids[at] for at in positions if isinstance(verdicts.get(at), OutOfTime)]:
        known = log.facts.setdefault(OVER_BUDGET, {})
        known[author] = sorted({*known.get(author, ()), *cut})
    return verdicts
