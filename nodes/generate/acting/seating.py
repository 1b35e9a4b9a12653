"""The players of an episode: the policy on some seats, an opponent on the others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from genrl_graph.contract.node import Wire
from genrl_graph.nodes.policy.actors.acting import Actor, ActorOutput, Floats, Masks

OpponentKind = Literal["self", "random", "policy", "snapshots", "perfect"]
Opponents = dict[OpponentKind, float]
P = TypeVar("P")


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
class Seats(Generic[P]):
    """The player of every seat, the seats whose steps are recorded, and the kind of opponent ("" in one-seat games)."""

    players: tuple[P, ...]
    own: tuple[int, ...]
    opponent: OpponentKind | Literal[""]


class SeatingPlan(Generic[P]):
    """Assigns the policy and a drawn opponent to the seats of each episode."""

    def __init__(
        self,
        policy: P,
        others: Mapping[OpponentKind, Sequence[P]],
        weights: Mapping[OpponentKind, float],
        *,
        rng: np.random.Generator,
    ) -> None:
        self._own, self._players = policy, others
        self._kinds: list[OpponentKind] = [kind for kind, weight in weights.items() if weight > 0]
        chances = np.asarray([weights[kind] for kind in self._kinds], dtype=np.float64)
        self._ends, self._rng = np.cumsum(chances / chances.sum()), rng

    def seats(self, count: int, number: int) -> Seats[P]:
        """Return the players of episode `number` in a game of `count` seats; the policy has seat `number % count`.

        An opponent kind without players, such as an empty snapshot pool, means self-play.
        """
        if count == 1:
            return Seats((self._own,), (0,), "")
        index = int(np.searchsorted(self._ends, self._rng.random(), side="right"))
        kind = self._kinds[min(index, len(self._kinds) - 1)]
        players = self._players.get(kind, ())
        if kind == "self" or not players:
            return Seats((self._own,) * count, tuple(range(count)), "self")
        opponent = players[int(self._rng.integers(len(players)))]
        own = number % count
        return Seats(tuple(self._own if seat == own else opponent for seat in range(count)), (own,), kind)


def check_weights(weights: Opponents) -> Opponents:
    """Return the weights of opponents; raises ValueError unless all are at least 0, and one is above."""
    if any(weight < 0 for weight in weights.values()) or not sum(weights.values()) > 0:
        raise ValueError(f"weights are at least 0 and not all 0, got {dict(weights)}")
    return weights


def check_opponents(named: Mapping[str, Opponents], inputs: Mapping[str, Wire]) -> Iterable[str]:
    """Yield a problem for each opponent that is named in a param but not wired, or wired but not named."""
    wired: tuple[tuple[OpponentKind, str], ...] = (("policy", "opponent"), ("snapshots", "snapshots"))
    for kind, socket in wired:
        names = [name for name, weights in named.items() if weights.get(kind, 0) > 0]
        if names and socket not in inputs:
            yield f"{names[0]} names {kind!r}, but no `{socket}` is wired; wire it or remove {kind!r}"
        if not names and socket in inputs:
            yield f"`{socket}` is wired, but never plays; name {kind!r} in opponents or remove it"
