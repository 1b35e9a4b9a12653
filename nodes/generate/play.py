"""`generate.play`: policies play episodes of an environment, seat against seat."""

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
from genrl_graph.nodes.generate.acting.episodes import Episode, play_episodes
from genrl_graph.nodes.generate.acting.seating import OpponentKind, SeatingPlan
from genrl_graph.nodes.generate.acting.steps import log_results, step_rows
from genrl_graph.nodes.policy.compute.acting import Actor, NetworkCarry
from genrl_graph.nodes.source.environment import EnvironmentSource
from genrl_graph.nodes.update.snapshots import Snapshots

Opponents = dict[OpponentKind, float]


class Play(Generator, name="play"):
    """Plays the episodes of `tasks` to their ends, `num_envs` at a time, and gives the steps of `policy` with rewards.

    In a game of several seats `opponents` says by weight who sits on the others: `self` (the policy; all seats are
    given), `random` (a legal move), `policy` (the one wired as `opponent`) or `snapshots` (one drawn from the pool
    wired as such, the policy itself as long as that is empty). The seat of the policy goes round from episode to
    episode. In an evaluation `eval_opponents` play; at temperature 0 the policy takes its best move.

    An episode in which the environment raises, gives what is outside its space or NaN, or takes more than `max_steps`
    is recorded as one failed row with its reason, and left out.
    """

    opponents: Opponents = Field({"self": 1.0}, description="who plays the other seats, by weight")
    eval_opponents: Opponents = Field({"random": 1.0}, description="the same in evaluations")
    num_generations: int = Field(1, ge=1, description="how often each episode is played")
    num_envs: int = Field(16, ge=1, description="episodes that are played side by side")
    max_steps: int = Field(10_000, ge=1, description="moves of all seats after which an episode counts as endless")

    _greedy: bool = PrivateAttr(default=False)
    _evaluating: bool = PrivateAttr(default=False)
    _pool: GamePool = PrivateAttr(default_factory=GamePool)

    @field_validator("opponents", "eval_opponents")
    @classmethod
    def _weights(cls, weights: Opponents) -> Opponents:
        if any(weight < 0 for weight in weights.values()) or not sum(weights.values()) > 0:
            raise ValueError(f"weights are at least 0 and not all 0, got {dict(weights)}")
        return weights

    def check_inputs(self, inputs: Mapping[str, Wire]) -> Iterable[str]:
        """Opponents that must be wired."""
        wired: tuple[tuple[OpponentKind, str], ...] = (("policy", "opponent"), ("snapshots", "snapshots"))
        for kind, socket in wired:
            named = [name for name in ("opponents", "eval_opponents") if getattr(self, name).get(kind, 0) > 0]
            if named and socket not in inputs:
                yield f"{named[0]} names {kind!r}, but no `{socket}` is wired; wire it or remove {kind!r}"
            if not named and socket in inputs:
                yield f"`{socket}` is wired, but never plays; name {kind!r} in opponents or remove it"

    def check_parts(self, parts: Mapping[str, Declared]) -> Iterable[str]:
        """Policies that do not read what the environment shows, or have another number of actions."""
        source = parts.get("tasks")
        for socket in ("policy", "opponent"):
            carry = parts.get(socket)
            if isinstance(source, EnvironmentSource) and isinstance(carry, NetworkCarry):
                yield from _misfit(socket, carry, source.environment)

    def evaluated(self, how: Evaluation) -> Self:
        """This generator against `eval_opponents`, with the seats of its first round."""
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
        """The steps of the policy's seats in the order of the tasks; logs results by opponent."""
        planned = [(task, sample) for task in tasks.rows("id", "metadata") for sample in range(self.num_generations)]
        table = SeatingPlan(policy, opponent, snapshots, self.opponents, rng=rng, greedy=self._greedy)
        first = 0 if self._evaluating else round * len(planned)
        episodes = []
        for at, (task, sample) in enumerate(planned):
            environment, seed = _of_task(task["metadata"], task["id"])
            spaces = environment.spaces()
            _refuse_misfit(policy, opponent, environment)
            seats = table.seats(spaces.seats, first + at)
            episodes.append(Episode(task["id"], sample, environment, seed, seats))
        play_episodes(episodes, self._pool, num_envs=self.num_envs, max_steps=self.max_steps, rng=rng)
        log_results(log, episodes)
        return step_rows(self.place, policy, episodes, round=round, peer=peer)


def _of_task(metadata: str, task_id: str) -> tuple[Environment, int]:
    found = json.loads(metadata) if metadata else {}
    if "environment" not in found or "seed" not in found:
        raise NodeFailed(f"task {task_id!r} names no environment and seed; wire a source.environment")
    return Environment.model_validate(found["environment"]), int(found["seed"])


def _refuse_misfit(policy: Actor, opponent: Actor | None, environment: Environment) -> None:
    """What the check cannot see: policies that are made elsewhere than in a carry."""
    wanted = environment.spaces()
    for actor in (policy, opponent):
        if actor is not None and (actor.spaces.observation, actor.spaces.actions) != (
            wanted.observation,
            wanted.actions,
        ):
            raise NodeFailed(f"{environment} has {wanted}, but policy {actor.name!r} has {actor.spaces}")


def _misfit(socket: str, carry: NetworkCarry, environment: Environment) -> Iterable[str]:
    if carry.environment == environment:
        return
    try:
        given, wanted = carry.spaces(), environment.spaces()
    except DataError:
        return  # told before a policy is made, where the network or the source makes the environment
    if (given.observation, given.actions) != (wanted.observation, wanted.actions):
        yield f"{environment} has {wanted}, but `{socket}` has {given}; give the policy this environment"
