"""`select.verified`: of other peers' episodes those that come out as they say."""

from typing import Literal, TypeVar

import numpy as np
from pydantic import Field, PrivateAttr

from genrl_graph.contract.node import Select
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.task import Task, TaskBook
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.environment_pool import GamePool
from genrl_graph.nodes.games.game import Game

T = TypeVar("T", bound=Trajectories)


class Verified(Select, name="verified"):
    """Keeps own episodes, and those of other peers whose moves, played again from the own task, give what they claim.

    What is seen, what is legal, rewards and the end must be those of the environment, which must be a function of
    seed and moves. An episode of which a seat's moves are missing, for an opponent played it, cannot be verified:
    `unseen` says what becomes of it.
    """

    unseen: Literal["drop", "keep"] = Field("drop", description="episodes in which others moved than is told")
    tolerance: float = Field(1e-5, ge=0, description="how far observations and rewards may be off")

    _pool: GamePool = PrivateAttr(default_factory=GamePool)

    def run(self, rows: Scored[T], *, tasks: TaskBook, peer: str, log: Log) -> Scored[T]:
        """The rows kept, in their order; stores the episodes that were refuted, with the reason."""
        kept = np.ones(len(rows), dtype=bool)
        refuted: dict[str, list[str]] = {"id": [], "peer": [], "reason": []}
        authors = rows.values("peer")
        for at in (at for at in rows.positions("group_id").values() if authors[at[0]] != peer):
            episode = rows.take(at)
            (first,) = episode.take([0]).rows("group_id", "peer", "task_id")
            try:
                reason = self._refuted(episode, tasks[first["task_id"]])
                kept[at] = not reason
            except _Unseen:
                kept[at], reason = self.unseen == "keep", ""
            if reason:
                for name, value in {"id": first["group_id"], "peer": first["peer"], "reason": reason}.items():
                    refuted[name].append(value)
        log.metric("kept", float(kept.mean()) if len(rows) else 0.0)
        log.metric("refuted", len(refuted["id"]))
        log.rows("refuted", refuted)
        return rows.where(kept)

    def _refuted(self, episode: Trajectories, task: Task) -> str:
        """Why an episode did not happen so; "" where it did."""
        if "environment" not in task.metadata or "seed" not in task.metadata:
            raise NodeFailed(f"task {task.id!r} names no environment and seed; wire a source.environment")
        environment = Environment.model_validate(task.metadata["environment"])
        game = self._pool.take(environment)
        try:
            reason = _play_again(episode, game, int(task.metadata["seed"]), tolerance=self.tolerance)
        except _Unseen:
            raise
        except Exception as error:  # an environment is anybody's code, and the moves are a stranger's
            return f"{type(error).__name__}: {error}"
        self._pool.give_back(environment, game)
        return reason


class _Unseen(Exception):
    """A seat moved whose steps are not there."""


def _play_again(episode: Trajectories, game: Game, seed: int, *, tolerance: float) -> str:
    seats = {seat: at[np.argsort(episode.numpy("step")[at])] for seat, at in episode.positions("seat").items()}
    seen, masks = episode.numpy("observation"), episode.numpy("mask")
    actions, rewards = episode.numpy("action"), np.zeros(len(episode))
    played = dict.fromkeys(seats, 0)
    turn = game.reset(seed)
    while not turn.finish:
        if turn.seat not in seats:
            raise _Unseen
        if played[turn.seat] == len(seats[turn.seat]):
            return f"seat {turn.seat} makes {played[turn.seat]} moves, and the game is not over"
        at = seats[turn.seat][played[turn.seat]]
        if not np.allclose(seen[at], turn.observation, atol=tolerance):
            return f"seat {turn.seat} sees something else at step {played[turn.seat]}"
        if not np.array_equal(masks[at], turn.mask):
            return f"seat {turn.seat} has other legal moves at step {played[turn.seat]}"
        played[turn.seat] += 1
        turn = game.step(int(actions[at]))
        for seat, count in played.items():
            if count:
                rewards[seats[seat][count - 1]] += turn.rewards[seat]
    if over := [seat for seat, count in played.items() if count < len(seats[seat])]:
        return f"seat {over[0]} moves after the end"
    if not np.allclose(rewards, episode.numpy("reward"), atol=tolerance):
        return f"rewards are {np.round(rewards, 3).tolist()[-4:]} at the end"
    ends = [int(at[-1]) for at in seats.values()]
    return "" if set(episode.take(ends).values("finish")) == {turn.finish} else f"the end is {turn.finish}"
