"""Training in a replay: load the carries to start from, and mark all rows as off-policy."""

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
"""The policy version that all rows get before an update in a replay."""


def off_policy(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of an update with all rows marked as off-policy, by a policy version that never exists.

    The version in a row counts the optimiser steps of the run's policy. The policy of the replay may have the same
    count after other steps; an update that compares the two numbers would take such rows for on-policy.
    """

    def marked(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: marked(item) for name, item in value.items()}
        if isinstance(value, list):
            return [marked(item) for item in value]
        return _without_version(value) if list(frames_of(value)) else value

    return {name: marked(value) for name, value in inputs.items()}


def _without_version(rows: Frame) -> Frame:
    names = rows.table.column_names
    if "policy_version" not in names:
        return rows
    versions = pa.array(np.full(len(rows), NO_VERSION, np.int64))
    return type(rows)(
        rows.table.set_column(names.index("policy_version"), "policy_version", versions), marks=rows.marks
    )


def start_carries(players: Sequence[Peer], stored: StoredRounds, schedule: Schedule, first: int) -> list[str]:
    """Load the carries from the newest checkpoint at or before round `first`; without one they keep initial values.

    Returns a line per carry that says what it starts from.
    """
    notes: dict[str, None] = {}
    for peer, carries in changing_carries(schedule, players).items():
        checkpoints = stored.checkpoints(peer)
        rounds = newest_checkpoint(checkpoints, at_most=first)
        folder = checkpoint_folder(checkpoints, rounds)
        saved = {name: value for name, value in carries.items() if rounds and (folder / peer / name).is_folder()}
        if saved:
            load_checkpoint(folder, {peer: saved})
        for name in carries:
            origin = f"the checkpoint after {counted(rounds, 'round')}" if name in saved else "its initial value"
            late = f", for there is no checkpoint at round {first}" if (rounds if name in saved else 0) < first else ""
            notes[f"{name}: starts from {origin}{late}"] = None
    return list(notes)
