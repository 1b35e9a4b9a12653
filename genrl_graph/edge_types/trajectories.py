"""The edge type of games that are played in steps, and the mark that a critic's targets add."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrl_graph.arrow.cast import TEXT, Tensor
from genrl_graph.edge_types.boards import moves
from genrl_graph.edge_types.display import DisplayMetrics, Transcript
from genrl_graph.edge_types.edge_type import CREDITED, SCORED, Mark
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import R
from genrl_graph.edge_types.violation import ReceiverContext, Violation, differing
from genrl_graph.seeds import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

VALUED = Mark("Valued", {"target": pa.float64()}, implies=(CREDITED,))
Valued = Annotated[R, VALUED]

LARGEST_LOGPROB = 1e-6
LARGEST_VALUE = 1e6  # of another peer's rewards and values: what overflows would end the game of all who train on it
MOST_SEATS = 64
FINISHES = ("", "terminated", "truncated", "failed")


class Trajectories(Frame):
    """Steps of games: one row for every action of one seat in one episode.

    `group_id` names the episode, which its seats share; `seat` and `step` count from 0, so `id` is
    `<hash of the seat's episode>-<step>`. `mask` is 1 where an action was legal; `logprob` and `value` are those of
    the policy that acted. `finish` is empty but in the last step of a seat: terminated, truncated (then `bootstrap`
    is the value of the observation that was left, else 0), or failed (then `error` says why; such an episode has one
    row). The reward of a step is all that the seat earned up to its next one.
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
        "finish": TEXT,
        "error": TEXT,
    }
    shown = DisplayMetrics(
        line=("return", "episode_length", "*/wins"),
        evaluation=("*/draws", "*/losses"),
        unit="steps",
        effort={"episode_length": "steps an episode", "steps": "environment steps"},
    )
    __slots__ = ()

    @classmethod
    def story(cls, id: str) -> str:
        """The trajectory that a step belongs to."""
        return id.rpartition("-")[0] or id

    def transcripts(self) -> Iterator[Transcript]:
        """One for every trajectory, in the order in which they begin."""
        codes = self.seat_codes()
        order = np.lexsort((self.numpy("step"), codes))
        parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []
        for rows in sorted(parts, key=lambda part: int(part.min())):
            yield moves(self.take(rows), rows)

    def finished(self) -> Self:
        """The steps of episodes that did not fail."""
        return self.where(~self.finish_is("failed"))

    def finish_is(self, finish: str) -> "NDArray[np.bool_]":
        """For each row whether it ended so, shape (rows,)."""
        found: NDArray[np.bool_] = pc.equal(self._column("finish"), finish).to_numpy(zero_copy_only=False)
        return found

    def seat_codes(self) -> "NDArray[np.int64]":
        """For each row the number of its trajectory, one seat's steps of one episode, from 0 on, shape (rows,)."""
        codes = self.numpy("seat").astype(np.int64)
        for name in ("group_id", "node", "peer"):  # with node and peer nobody slips steps into another's episode
            encoded = self._column(name).dictionary_encode()
            within = np.unique(codes, return_inverse=True)[1]
            codes = within * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)

    def content_ids(self, *, protocol: str) -> list[str]:
        """The id that each row must have in a graph of this protocol; those of an episode need all of its steps."""
        ids = [""] * len(self)
        order = np.lexsort((self.numpy("step"), codes := self.seat_codes()))
        actions = self.numpy("action")
        for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []:
            (first,) = self.take(rows[:1]).rows("peer", "round", "node", "task_id", "sample", "seat")
            name = trajectory_id(protocol=protocol, actions=actions[rows], where=first)
            for at, step in zip(rows.tolist(), self.numpy("step")[rows].tolist(), strict=True):
                ids[at] = step_id(name, step)
        return ids

    def flaws(self, known: ReceiverContext) -> Iterator[Violation]:
        """What is wrong with steps that came from another peer; ids hash to the content and to where it was played.

        A trajectory that does not begin at step 0, leaves one out, or ends anywhere but at its last is refused whole,
        and so is one of which a step is refused.
        """
        codes, bad = self.seat_codes(), np.zeros(len(self), dtype=bool)
        for flaw in self._row_flaws(known):
            bad |= flaw.rows
            yield flaw
        yield Violation("whole", "finish", (np.bincount(codes, weights=bad) > 0)[codes])

    def _row_flaws(self, known: ReceiverContext) -> Iterator[Violation]:
        masks, actions, failed = self.numpy("mask"), self.numpy("action"), self.finish_is("failed")
        inside = (actions >= 0) & (actions < masks.shape[1])
        legal = np.zeros(len(self), dtype=bool)
        legal[inside] = masks[np.flatnonzero(inside), actions[inside]] == 1
        yield Violation("finish", "finish", ~np.isin(self.numpy("finish").astype(str), FINISHES))
        yield Violation("mask", "action", ((masks != 0) & (masks != 1)).any(axis=1))
        yield Violation("legal", "action", ~(legal | failed))
        yield Violation("logprob", "logprob", self.numpy("logprob") > LARGEST_LOGPROB)
        yield Violation("seat", "seat", (self.numpy("seat") < 0) | (self.numpy("seat") >= MOST_SEATS))
        yield Violation("step", "step", self.numpy("step") < 0)
        yield Violation("value", "value", np.abs(self.numpy("value")) > LARGEST_VALUE)
        left = np.where(self.finish_is("truncated"), LARGEST_VALUE, 0.0)
        yield Violation("bootstrap", "bootstrap", np.abs(self.numpy("bootstrap")) > left)
        if SCORED in self.marks:
            yield Violation("reward", "reward", ~((np.abs(self.numpy("reward")) <= LARGEST_VALUE) | failed))
        yield Violation("whole", "finish", self._torn())
        yield Violation("hash", "id", differing(self.values("id"), self.content_ids(protocol=known.protocol)))
        places = self.rows("peer", "round", "node", "task_id", "sample")
        episodes = [episode_id(protocol=known.protocol, **place) for place in places]
        yield Violation("group", "group_id", differing(self.values("group_id"), episodes))

    def _torn(self) -> "NDArray[np.bool_]":
        """For each row whether its trajectory is other than steps 0, 1, ... of which the last alone is finished."""
        codes, steps = self.seat_codes(), self.numpy("step").astype(np.int64)
        order = np.lexsort((steps, codes))
        sizes = np.bincount(codes)
        within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        last = within == np.repeat(sizes, sizes) - 1
        wrong = (steps[order] != within) | (last == self.finish_is("")[order])
        torn: NDArray[np.bool_] = (np.bincount(codes[order], weights=wrong, minlength=len(sizes)) > 0)[codes]
        return torn


def episode_id(*, protocol: str, peer: str, round: int, node: str, task_id: str, sample: int) -> str:
    """The `group_id` that all seats of an episode share: where and of what it was played."""
    return digest(("episode", protocol, peer, round, node, task_id, sample))


def trajectory_id(*, protocol: str, actions: "NDArray[np.int32]", where: "dict[str, Any]") -> str:
    """The name of one seat's episode: a hash of `where` it was played and of the actions; floats stay out of it."""
    place = (where["peer"], where["round"], where["node"], where["task_id"], where["sample"], where["seat"])
    return digest(("trajectory", protocol, *place, actions.astype("<i4").tobytes()))


def step_id(trajectory: str, step: int) -> str:
    """The id of a step of a trajectory."""
    return f"{trajectory}-{step}"
