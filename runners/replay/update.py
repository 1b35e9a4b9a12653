"""Training in a replay: where the carries start, and rows that a policy of another history sampled."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from genrl_graph.dag.schedule import Schedule
from genrl_graph.edge_types.frame import Frame, frames_of
from genrl_graph.messages import counted
from genrl_graph.runners.loop.peers import Peer, changing_carries
from genrl_graph.runners.replay.rounds import StoredRounds
from genrl_graph.runners.resume.checkpoint import checkpoint_folder, load_checkpoint, newest_checkpoint

NO_VERSION = -1
"""The policy version of rows that reach an update in a replay."""


def off_policy(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of an update with rows that none of its policy's versions sampled: they are off-policy, all of them.

    The version in a row counts the steps of the run's policy. The one that is trained here may have taken as many,
    but other ones, so an update that compares the numbers would take such rows for on-policy.
    """

    def marked(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: marked(item) for name, item in value.items()}
        if isinstance(value, list):
            return [marked(item) for item in value]
        return _of_no_version(value) if list(frames_of(value)) else value

    return {name: marked(value) for name, value in inputs.items()}


def _of_no_version(rows: Frame) -> Frame:
    names = rows.table.column_names
    if "policy_version" not in names:
        return rows
    versions = pa.array(np.full(len(rows), NO_VERSION, np.int64))
    return type(rows)(
        rows.table.set_column(names.index("policy_version"), "policy_version", versions), marks=rows.marks
    )


def start_carries(players: Sequence[Peer], stored: StoredRounds, schedule: Schedule, first: int) -> list[str]:
    """Let the carries be what they were before round `first`, as far as a checkpoint has it; says what they are."""
    notes: dict[str, None] = {}
    for peer, carries in changing_carries(schedule, players).items():
        folder = stored.checkpoints(peer)
        made = newest_checkpoint(folder, at_most=first) if folder.is_dir() else 0
        kept = checkpoint_folder(folder, made)
        known = {name: value for name, value in carries.items() if made and (kept / peer / name).is_dir()}
        load_checkpoint(kept, {peer: known})
        for name in carries:
            begins = f"the checkpoint after {counted(made, 'round')}" if name in known else "its initial value"
            late = f", for there is no checkpoint at round {first}" if (made if name in known else 0) < first else ""
            notes[f"{name}: starts from {begins}{late}"] = None
    return list(notes)
