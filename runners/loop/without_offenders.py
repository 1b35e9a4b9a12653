"""Run a reward or select without the rows of peers that make it raise: rows of others must not end this peer's run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from genrl_graph.contract.node import Node, Reward, Select
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.frame import Frame, frames_of
from genrl_graph.messages import first_line
from genrl_graph.runners.loop.budget import is_transient

LEFT_OUT = "left_out_peers"
"""The fact that names the peers whose rows made a node raise, each with the error."""

Inputs = Mapping[str, Any]
Run = Callable[[Inputs, Log], Any]


def run_without_offenders(node: Node, inputs: Inputs, run: Run, log: Log, *, peer: str) -> tuple[Any, Log]:
    """Run a node; where it raises, run it again without the rows of the peers on whose rows it raises.

    Returns the output and the log of the run that succeeded. Such a run has the rows left out as a table of `failures`
    and as a fact. Raises what the node raises on own rows, and what kinds raise that do not judge rows.
    """
    try:
        return run(inputs, log), log
    except Exception as error:  # of any kind: nodes of users run here; it is raised unless others are the reason
        others = sorted({name for frame in _frames(inputs) for name in _authors(frame)} - {peer, ""})
        if not others or not isinstance(node, Reward | Select) or is_transient(error):
            raise
        reasons = _offenders(inputs, run, others, log)
        if not reasons:
            raise
    kept = Log(cut=log.cut)
    output = run(_without(inputs, reasons), kept)
    kept.fact(LEFT_OUT, reasons)
    ids = {id: reasons[name] for frame in _frames(inputs) for id, name in _ids_by_author(frame) if name in reasons}
    known = kept.tables.get("failures", {"id": [], "reason": []})
    kept.rows("failures", {"id": [*known["id"], *ids], "reason": [*known["reason"], *ids.values()]})
    return output, kept


def _offenders(inputs: Inputs, run: Run, others: Sequence[str], log: Log) -> dict[str, str]:
    """Return the peers whose rows make the node raise beside the own ones, each with the error.

    None where it raises on the own rows alone.
    """

    def reason_without(left_out: Sequence[str]) -> str:
        try:
            run(_without(inputs, left_out), Log(cut=log.cut))
        except Exception as error:  # of any kind: it is recorded with the rows of a peer, or the first one is raised
            return f"{type(error).__name__}: {first_line(error)}".encode(errors="replace").decode()
        return ""

    if reason_without(others):
        return {}
    reasons = {name: reason_without([other for other in others if other != name]) for name in others}
    return {name: reason for name, reason in reasons.items() if reason}


def _without(inputs: Inputs, authors: Sequence[str] | Mapping[str, str]) -> dict[str, Any]:
    """Return the inputs without the rows of these authors."""
    return {name: _filtered(value, set(authors)) for name, value in inputs.items()}


def _filtered(value: Any, authors: set[str]) -> Any:
    if isinstance(value, Frame):
        return value.where(np.asarray([name not in authors for name in _authors(value)], dtype=bool))
    if isinstance(value, list | tuple):
        return [_filtered(each, authors) for each in value]
    if isinstance(value, Mapping):
        return {name: _filtered(each, authors) for name, each in value.items()}
    return value


def _frames(inputs: Inputs) -> list[Frame]:
    return [frame for value in inputs.values() for frame in frames_of(value)]


def _authors(frame: Frame) -> list[str]:
    """Return the author of each row; rows without one are nobody's."""
    return frame.values("peer") if "peer" in frame.table.column_names else [""] * len(frame)


def _ids_by_author(frame: Frame) -> list[tuple[str, str]]:
    ids = frame.values("id") if "id" in frame.table.column_names else []
    return list(zip(ids, _authors(frame), strict=bool(ids)))
