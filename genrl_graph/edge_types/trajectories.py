"""The edge type of multi-step games, and the mark of rows with value targets."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.arrow.cast import TEXT, Tensor
from genrl_graph.edge_types.boards import trajectory_transcript
from genrl_graph.edge_types.display import DisplayMetrics, Transcript
from genrl_graph.edge_types.edge_type import CREDITED, SCORED, Mark
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import R
from genrl_graph.edge_types.sequences import (
    ENDINGS,
    LARGEST_VALUE,
    MOST_SEATS,
    combined_codes,
    in_order,
    incomplete,
    whole_or_none,
)
from genrl_graph.edge_types.violation import ReceiverContext, Violation, differing
from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

VALUED = Mark("Valued", {"target": pa.float64()}, implies=(CREDITED,))
Valued = Annotated[R, VALUED]

LARGEST_LOGPROB = 1e-6


class Trajectories(Frame):
    """Steps of games: one row for each action of one seat in one episode.

    `group_id` is the id of the episode, shared by its seats. `seat` and `step` count from 0, and `id` is
    `<trajectory id>-<step>`. `mask` is 1 for legal actions; `logprob` and `value` come from the policy that acted.
    `finish_reason` is set only in the last step of a seat: terminated, truncated or failed. `bootstrap` is the value of
    the observation after a truncated step, else 0. `error` is the reason of a failure; a failed episode has one row.
    The reward of a step includes everything that the seat earned before its next step.
    """

    columns = {
        "id": TEXT,
        "task_id": TEXT,
        "group_id": TEXT,
        "peer": TEXT,
        "node": TEXT,
        "stage": pa.int32(),
        "round": pa.int32(),
        "sample": pa.int32(),
        "policy": TEXT,
        "policy_version": pa.int64(),
        "seat": pa.int32(),
        "step": pa.int32(),
        "observation": Tensor(pa.float32()),
        "mask": Tensor(pa.int8(), ndim=1),
        "action": pa.int32(),
        "logprob": pa.float32(),
        "value": pa.float32(),
        "bootstrap": pa.float32(),
        "finish_reason": TEXT,
        "error": TEXT,
    }
    sample_column = "group_id"
    role_column = "seat"
    shown = DisplayMetrics(
        line=("return", "episode_length", "*/wins"),
        evaluation=("*/draws", "*/losses"),
        unit="steps",
        effort={"episode_length": "steps an episode", "steps": "environment steps"},
    )
    __slots__ = ()

    @classmethod
    def trajectory_id(cls, id: str) -> str:
        """Return the trajectory id of a step id."""
        return id.rpartition("-")[0] or id

    def transcripts(self) -> Iterator[Transcript]:
        """Render each trajectory, in order of its first row."""
        for rows in sorted(in_order(self.trajectory_codes(), self.numpy("step")), key=lambda part: int(part.min())):
            yield trajectory_transcript(self.take(rows), rows)

    def finished(self) -> Self:
        """Return the steps of episodes that did not fail."""
        return self.where(~self.finish_is("failed"))

    def finish_is(self, finish: str) -> "NDArray[np.bool_]":
        """Return a mask of the rows with this `finish_reason`, shape (rows,)."""
        mask: NDArray[np.bool_] = pc.equal(self._column("finish_reason"), finish).to_numpy(zero_copy_only=False)
        return mask

    def trajectory_codes(self) -> "NDArray[np.int64]":
        """Return for each row the index of its trajectory (one seat of one episode), from 0, shape (rows,).

        Node and peer count, too: a peer cannot add steps to another's episode.
        """
        return combined_codes(self, "seat", "group_id", "node", "peer")

    def content_ids(self, *, protocol: str) -> list[str]:
        """Return the id that each row must have in a graph with this protocol fingerprint.

        The ids of a trajectory are hashes over all of its steps, so the frame must hold all of them.
        """
        ids = [""] * len(self)
        actions = self.numpy("action")
        for rows in in_order(self.trajectory_codes(), self.numpy("step")):
            (first,) = self.take(rows[:1]).rows("peer", "round", "node", "task_id", "sample", "seat")
            name = trajectory_id(protocol=protocol, actions=actions[rows], where=first)
            for position, step in zip(rows.tolist(), self.numpy("step")[rows].tolist(), strict=True):
                ids[position] = step_id(name, step)
        return ids

    def violations(self, known: ReceiverContext) -> Iterator[Violation]:
        """Yield the violations in steps from another peer.

        A trajectory is refused as a whole if one of its steps is refused, if it does not start at step 0, if a step is
        missing, or if any step but the last is finished.
        """
        codes, bad = self.trajectory_codes(), np.zeros(len(self), dtype=bool)
        for flaw in self._row_flaws(known):
            bad |= flaw.rows
            yield flaw
        yield Violation("whole", "finish_reason", whole_or_none(codes, bad))

    def _row_flaws(self, known: ReceiverContext) -> Iterator[Violation]:
        masks, actions, failed = self.numpy("mask"), self.numpy("action"), self.finish_is("failed")
        inside = (actions >= 0) & (actions < masks.shape[1])
        legal = np.zeros(len(self), dtype=bool)
        legal[inside] = masks[np.flatnonzero(inside), actions[inside]] == 1
        yield Violation("finish_reason", "finish_reason", ~np.isin(self.numpy("finish_reason").astype(str), ENDINGS))
        yield Violation("mask", "action", ((masks != 0) & (masks != 1)).any(axis=1))
        yield Violation("legal", "action", ~(legal | failed))
        yield Violation("logprob", "logprob", self.numpy("logprob") > LARGEST_LOGPROB)
        yield Violation("seat", "seat", (self.numpy("seat") < 0) | (self.numpy("seat") >= MOST_SEATS))
        yield Violation("step", "step", self.numpy("step") < 0)
        yield Violation("value", "value", np.abs(self.numpy("value")) > LARGEST_VALUE)
        largest = np.where(self.finish_is("truncated"), LARGEST_VALUE, 0.0)
        yield Violation("bootstrap", "bootstrap", np.abs(self.numpy("bootstrap")) > largest)
        if SCORED in self.marks:
            yield Violation("reward", "reward", ~((np.abs(self.numpy("reward")) <= LARGEST_VALUE) | failed))
        yield Violation("whole", "finish_reason", self._incomplete())
        yield Violation("hash", "id", differing(self.values("id"), self.content_ids(protocol=known.protocol)))
        places = self.rows("peer", "round", "node", "task_id", "sample")
        episodes = [episode_id(protocol=known.protocol, **place) for place in places]
        yield Violation("group", "group_id", differing(self.values("group_id"), episodes))

    def _incomplete(self) -> "NDArray[np.bool_]":
        """Return a mask of rows whose trajectory is not steps 0, 1, ... with only the last one finished."""
        return incomplete(self.trajectory_codes(), self.numpy("step").astype(np.int64), ~self.finish_is(""))


def episode_id(*, protocol: str, peer: str, round: int, node: str, task_id: str, sample: int) -> str:
    """Return the `group_id` that all seats of an episode share: a hash of where and on which task it was played."""
    return digest(("episode", protocol, peer, round, node, task_id, sample))


def trajectory_id(*, protocol: str, actions: "NDArray[np.int32]", where: "dict[str, Any]") -> str:
    """Return the id of one seat's trajectory: a hash of `where` it was played and of the actions, without floats."""
    place = (where["peer"], where["round"], where["node"], where["task_id"], where["sample"], where["seat"])
    return digest(("trajectory", protocol, *place, actions.astype("<i4").tobytes()))


def step_id(trajectory: str, step: int) -> str:
    """Return the id of a step of a trajectory."""
    return f"{trajectory}-{step}"
