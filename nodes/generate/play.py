"""`generate.play`: policies play episodes of an environment, alone or against opponents."""

import json
from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np
from pydantic import Field, PrivateAttr, field_validator

from genrl_graph.contract.declared import Declared
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Generator, Wire
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Scored, Tasks
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.errors import DataError, NodeFailed
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.environment_pool import GamePool
from genrl_graph.nodes.games.game import Game, Spaces
from genrl_graph.nodes.generate.acting.episodes import Episode, play_episodes
from genrl_graph.nodes.generate.acting.results import log_results
from genrl_graph.nodes.generate.acting.seating import (
    ActorPlayer,
    OpponentKind,
    Opponents,
    Player,
    RandomPlayer,
    SeatingPlan,
    check_opponents,
    check_weights,
)
from genrl_graph.nodes.generate.acting.steps import step_rows
from genrl_graph.nodes.policy.actors.acting import Actor, NetworkCarry
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.update.snapshots import Snapshots


class Play(Generator, name="play"):
    """Plays the episodes of `tasks` to the end, `num_envs` at a time, and returns the steps of `policy` with rewards.

    In a game of several seats, the opponent of each episode is drawn from `opponents` by weight: `self` (the policy
    plays all seats, and the steps of all are returned), `random` (a random legal action), `policy` (the one wired as
    `opponent`) or `snapshots` (one drawn from the wired pool; self-play while the pool is empty). The policy takes the
    next seat in each episode. Evaluations use `eval_opponents`; at temperature 0 the policy acts greedily.

    An episode fails if the environment raises, returns NaN or values outside its space, or needs more than `max_steps`
    moves. A failed episode is recorded as one failed row with its reason, and left out of training.
    """

    opponents: Opponents = Field(default={"self": 1.0}, description="who plays the other seats, by weight")
    eval_opponents: Opponents = Field(default={"random": 1.0}, description="who plays the other seats in evaluations")
    num_generations: int = Field(default=1, ge=1, description="times that each episode is played")
    num_envs: int = Field(default=16, ge=1, description="episodes that are played concurrently")
    max_steps: int = Field(
        default=10_000, ge=1, description="moves of all seats after which an episode fails as endless"
    )

    _greedy: bool = PrivateAttr(default=False)
    _evaluating: bool = PrivateAttr(default=False)
    _pool: GamePool[Game] = PrivateAttr(default_factory=lambda: GamePool(Environment.open))

    @field_validator("opponents", "eval_opponents")
    @classmethod
    def _weights(cls, weights: Opponents) -> Opponents:
        if "perfect" in weights:
            raise ValueError("'perfect' plays games in text; play them with generate.dialogue, or remove 'perfect'")
        return check_weights(weights)

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Yield a problem for each opponent that is named but not wired, or wired but not named."""
        return check_opponents({"opponents": self.opponents, "eval_opponents": self.eval_opponents}, inputs)

    def check_parts(self, parts: Mapping[str, Declared]) -> Iterable[str]:
        """Yield a problem for each policy whose observations or actions differ from the environment's."""
        source = parts.get("tasks")
        for socket in ("policy", "opponent"):
            carry = parts.get(socket)
            if isinstance(source, EnvironmentSource) and isinstance(carry, NetworkCarry):
                yield from _misfit(socket, carry, source.environment)

    @property
    def group_size(self) -> int:
        """Return `num_generations`."""
        return self.num_generations

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that plays against `eval_opponents`, with the same seats in every evaluation."""
        changed = {"opponents": self.eval_opponents, "num_generations": how.num_generations or self.num_generations}
        copy = self.model_copy(update=changed)
        copy._greedy, copy._evaluating = how.temperature == 0, True
        return copy

    def run(
        self,
        tasks: Tasks,
        policy: Actor,
        opponent: Actor | None = None,
        snapshots: Snapshots | None = None,
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> Scored[Trajectories]:
        """Play all episodes; return the steps of the policy's seats in task order, and log results by opponent.

        Raises `NodeFailed` if a task names no environment, or a policy does not fit its environment.

        Inputs:
            tasks: episodes to play, each an environment and a seed
            policy: policy that plays, and whose steps are returned
            opponent: policy of the other seats in episodes drawn for `policy`
            snapshots: pool from which the opponent is drawn in episodes drawn for `snapshots`
        """
        planned = [(task, sample) for task in tasks.rows("id", "metadata") for sample in range(self.num_generations)]
        seating = self._seating(policy, opponent, snapshots, rng)
        first = 0 if self._evaluating else round * len(planned)
        episodes = []
        for number, (task, sample) in enumerate(planned, start=first):
            environment, seed = _environment_of(task["metadata"], task["id"])
            spaces = environment.spaces()
            _refuse_misfit(policy, opponent, environment)
            seats = seating.seats(spaces.seats, number)
            episodes.append(Episode(task["id"], sample, environment, seed, seats))
        play_episodes(episodes, self._pool, num_envs=self.num_envs, max_steps=self.max_steps, rng=rng)
        log.metric("steps", sum(episode.moves for episode in episodes))
        log_results(log, episodes)
        return step_rows(self.place, policy, episodes, round=round, peer=peer)

    def _seating(
        self, policy: Actor, opponent: Actor | None, snapshots: Snapshots | None, rng: np.random.Generator
    ) -> SeatingPlan[Player]:
        """Return the plan of players; raises `NodeFailed` if the pool holds other policies than this game's."""
        members = snapshots.members if snapshots is not None else ()
        pool = [member for member in members if isinstance(member, Actor)]
        if len(pool) < len(members):
            raise NodeFailed("the pool of snapshots holds language models, which do not play games of numbers")
        others: dict[OpponentKind, list[Player]] = {
            "random": [RandomPlayer()],
            "policy": [ActorPlayer(opponent)] if opponent is not None else [],
            "snapshots": [ActorPlayer(member) for member in pool],
        }
        return SeatingPlan(ActorPlayer(policy, self._greedy), others, self.opponents, rng=rng)


def _environment_of(metadata: str, task_id: str) -> tuple[Environment, int]:
    """Return the environment and the seed of a task."""
    values = json.loads(metadata) if metadata else {}
    if "environment" not in values or "seed" not in values:
        raise NodeFailed(f"task {task_id!r} names no environment and seed; wire a source.environment")
    return Environment.model_validate(values["environment"]), int(values["seed"])


def _refuse_misfit(policy: Actor, opponent: Actor | None, environment: Environment) -> None:
    """Raise `NodeFailed` if a policy does not fit; `check_parts` sees only policies of carries."""
    expected = environment.spaces()
    for actor in (policy, opponent):
        if actor is not None and not _fits(actor.spaces, expected):
            raise NodeFailed(f"{environment} has {expected}, but policy {actor.name!r} has {actor.spaces}")


def _misfit(socket: str, carry: NetworkCarry, environment: Environment) -> Iterable[str]:
    if carry.environment == environment:
        return
    try:
        actual, expected = carry.spaces(), environment.spaces()
    except DataError:
        return  # the carry or the source raises it when it opens the environment, before a policy is made
    if not _fits(actual, expected):
        yield f"{environment} has {expected}, but `{socket}` has {actual}; give the policy this environment"


def _fits(actual: Spaces, expected: Spaces) -> bool:
    """Return whether observations and actions agree; a policy fits games of any number of seats."""
    return (actual.observation, actual.actions) == (expected.observation, expected.actions)
