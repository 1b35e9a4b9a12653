"""The players of an episode: the policy on some seats, an opponent on the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from genrl_graph.nodes.policy.actors.acting import Actor, ActorOutput, Floats, Masks
from genrl_graph.nodes.update.snapshots import Snapshots

OpponentKind = Literal["self", "random", "policy", "snapshots"]


class Player(Protocol):
    """Anything that chooses actions for a seat."""

    def act(self, observations: Floats, masks: Masks, *, rng: np.random.Generator) -> ActorOutput:
        """Choose one action per row."""


@dataclass(frozen=True, slots=True)
class ActorPlayer:
    """A player whose actions come from a policy, greedy or with its exploration."""

    actor: Actor
    greedy: bool = False

    def act(self, observations: Floats, masks: Masks, *, rng: np.random.Generator) -> ActorOutput:
        """Let the policy choose one action per row."""
        return self.actor.act(observations, masks, rng=rng, greedy=self.greedy)


class RandomPlayer:
    """A player that draws uniformly among the legal actions."""

    def act(self, observations: Floats, masks: Masks, *, rng: np.random.Generator) -> ActorOutput:
        """Draw one legal action per row."""
        legal = masks.sum(axis=1, dtype=np.int64)
        points = np.floor(rng.random(len(masks)) * legal)
        actions = (np.cumsum(masks, axis=1, dtype=np.int64) <= points[:, None]).sum(axis=1)
        return ActorOutput(
            actions.astype(np.int32), -np.log(legal.astype(np.float32)), np.zeros(len(masks), np.float32)
        )


@dataclass(frozen=True, slots=True)
class Seats:
    """The player of every seat, the seats whose steps are recorded, and the kind of opponent ("" in one-seat games)."""

    players: tuple[Player, ...]
    own: tuple[int, ...]
    opponent: OpponentKind | Literal[""]


class SeatingPlan:
    """Assigns the policy and a drawn opponent to the seats of each episode."""

    def __init__(
        self,
        policy: Actor,
        opponent: Actor | None,
        snapshots: Snapshots | None,
        weights: Mapping[OpponentKind, float],
        *,
        rng: np.random.Generator,
        greedy: bool,
    ) -> None:
        self._own = ActorPlayer(policy, greedy)
        self._players: dict[OpponentKind, list[Player]] = {
            "self": [self._own],
            "random": [RandomPlayer()],
            "policy": [ActorPlayer(opponent)] if opponent is not None else [],
            "snapshots": [ActorPlayer(member) for member in snapshots.members] if snapshots is not None else [],
        }
        self._kinds: list[OpponentKind] = [kind for kind, weight in weights.items() if weight > 0]
        chances = np.asarray([weights[kind] for kind in self._kinds], dtype=np.float64)
        self._ends, self._rng = np.cumsum(chances / chances.sum()), rng

    def seats(self, count: int, number: int) -> Seats:
        """Return the players of episode `number` in a game of `count` seats; the policy has seat `number % count`.

        An opponent kind without players, such as an empty snapshot pool, means self-play.
        """
        if count == 1:
            return Seats((self._own,), (0,), "")
        index = int(np.searchsorted(self._ends, self._rng.random(), side="right"))
        kind = self._kinds[min(index, len(self._kinds) - 1)]
        players = self._players[kind]
        if kind == "self" or not players:
            return Seats((self._own,) * count, tuple(range(count)), "self")
        opponent = players[int(self._rng.integers(len(players)))]
        own = number % count
        return Seats(tuple(self._own if seat == own else opponent for seat in range(count)), (own,), kind)
