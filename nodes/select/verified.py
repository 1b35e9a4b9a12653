"""`select.verified`: replay other peers' episodes and drop those that do not reproduce."""

import time
from functools import partial
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
from genrl_graph.nodes.reward.scoring.authors import judge_by_author
from genrl_graph.nodes.worker.worker import Failure, OutOfTime

T = TypeVar("T", bound=Trajectories)


class Verified(Select, name="verified"):
    """Keeps own episodes, and other peers' episodes that a replay of their actions reproduces.

    The replay starts from the task of this peer's own source. Observations, legal actions, rewards and the ending must
    match the environment, which must be a deterministic function of seed and actions. An episode without the steps of
    one of its seats (an opponent played it) cannot be replayed; `unseen` decides whether it is kept.
    """

    unseen: Literal["drop", "keep"] = Field("drop", description="for episodes that lack the steps of a seat")
    tolerance: float = Field(1e-5, ge=0, description="largest deviation of observations and rewards")
    peer_seconds: float = Field(
        10.0, gt=0, description="seconds for the episodes of one other peer in a round; its other episodes are dropped"
    )

    _pool: GamePool = PrivateAttr(default_factory=GamePool)

    def run(self, rows: Scored[T], *, tasks: TaskBook, peer: str, log: Log) -> Scored[T]:
        """Return the selected rows in order; log the refuted episodes with the reason in the table `refuted`.

        Inputs:
            rows: whole episodes of this peer and of others
        """
        selected = np.ones(len(rows), dtype=bool)
        refuted: dict[str, list[str]] = {"id": [], "peer": [], "reason": []}
        authors, episodes = rows.values("peer"), rows.values("group_id")
        others = [at for at, author in enumerate(authors) if author != peer]
        for task_id in {id for id, author in zip(rows.values("task_id"), authors, strict=True) if author == peer}:
            if reason := _unplayable(tasks[task_id]):
                raise NodeFailed(reason)
        by_author = partial(judge_by_author, peer=peer, seconds=self.peer_seconds, log=log)
        for at, verdict in by_author(rows, others, partial(self._verify, rows, tasks)).items():
            reason = verdict.reason if isinstance(verdict, Failure) else ""
            selected[at] = verdict is True
            if reason and episodes[at] not in refuted["id"]:
                for name, value in {"id": episodes[at], "peer": authors[at], "reason": reason}.items():
                    refuted[name].append(value)
        log.metric("kept", float(selected.mean()) if len(rows) else 0.0)
        log.metric("refuted", len(refuted["id"]))
        log.rows("refuted", refuted)
        return rows.where(selected)

    def _verify(
        self, rows: Trajectories, tasks: TaskBook, positions: list[int], until: float
    ) -> dict[int, bool | Failure]:
        """Return, by position, whether the row is kept, or how its episode deviates from the environment."""
        verdicts: dict[int, bool | Failure] = {}
        of_author = rows.take(positions)
        for at in of_author.positions("group_id").values():
            verdict: bool | Failure = OutOfTime()
            if time.monotonic() < until:
                episode = of_author.take(at)
                try:
                    reason = self._refutation(episode, tasks[episode.values("task_id")[0]])
                    verdict = Failure(reason) if reason else True
                except _MissingSeatError:
                    verdict = self.unseen == "keep"
            verdicts |= dict.fromkeys([positions[within] for within in at], verdict)
        return verdicts

    def _refutation(self, episode: Trajectories, task: Task) -> str:
        """Replay an episode; return how it deviates, "" if it does not."""
        if reason := _unplayable(task):
            return reason
        environment = Environment.model_validate(task.metadata["environment"])
        game = self._pool.take(environment)
        try:
            reason = _replay(episode, game, int(task.metadata["seed"]), tolerance=self.tolerance)
        except _MissingSeatError:
            raise
        except Exception as error:  # third-party environment code may raise anything on another peer's actions
            return f"{type(error).__name__}: {error}"
        self._pool.give_back(environment, game)
        return reason


class _MissingSeatError(Exception):
    """The episode lacks the steps of a seat that has to move."""


def _unplayable(task: Task) -> str:
    """Return why no episode can be played from a task, "" if one can."""
    if "environment" in task.metadata and "seed" in task.metadata:
        return ""
    return f"task {task.id!r} names no environment and seed; wire a source.environment"


def _replay(episode: Trajectories, game: Game, seed: int, *, tolerance: float) -> str:
    """Play the episode's actions; return the first deviation from its recorded steps, "" if there is none."""
    seats = {seat: at[np.argsort(episode.numpy("step")[at])] for seat, at in episode.positions("seat").items()}
    observations, masks = episode.numpy("observation"), episode.numpy("mask")
    actions, rewards = episode.numpy("action"), np.zeros(len(episode))
    played = dict.fromkeys(seats, 0)
    state = game.reset(seed)
    finish: dict[int, str] = {}
    while not state.over:
        if state.seat not in seats:
            raise _MissingSeatError
        if played[state.seat] == len(seats[state.seat]):
            return f"seat {state.seat} makes {played[state.seat]} moves, and the game is not over"
        at = seats[state.seat][played[state.seat]]
        if not np.allclose(observations[at], state.observation, atol=tolerance):
            return f"seat {state.seat} sees something else at step {played[state.seat]}"
        if not np.array_equal(masks[at], state.mask):
            return f"seat {state.seat} has other legal moves at step {played[state.seat]}"
        played[state.seat] += 1
        state = game.step(int(actions[at]))
        finish |= {seat: end.finish_reason for seat, end in state.ends.items()}
        for seat, count in played.items():
            if count:
                rewards[seats[seat][count - 1]] += state.rewards[seat]
    if surplus := [seat for seat, count in played.items() if count < len(seats[seat])]:
        return f"seat {surplus[0]} moves after the end"
    if not np.allclose(rewards, episode.numpy("reward"), atol=tolerance):
        return f"rewards are {np.round(rewards, 3).tolist()[-4:]} at the end"
    recorded = episode.values("finish_reason")
    wrong = [seat for seat, at in seats.items() if recorded[int(at[-1])] != finish[seat]]
    return f"seat {wrong[0]} is {finish[wrong[0]]} at the end" if wrong else ""
