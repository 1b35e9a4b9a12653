"""A game as a generator plays it: seats that take turns, whatever library it comes from."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genrl_graph.errors import DataError

Floats = NDArray[np.float32]
Mask = NDArray[np.int8]


class BrokenGame(Exception):
    """An environment gave what it must not: the episode is recorded as failed with this reason."""


@dataclass(frozen=True, slots=True)
class Spaces:
    """What a game shows (shape of an observation), how many actions it takes, and how many seats it has."""

    observation: tuple[int, ...]
    actions: int
    seats: int = 1

    def __str__(self) -> str:
        return f"observations {list(self.observation)}, {self.actions} actions"


@dataclass(slots=True)
class Turn:
    """Whose turn it is and what that seat sees.

    `rewards` holds what every seat earned since the turn before. When the game is over, `finish` is terminated or
    truncated, and nobody is to move.
    """

    seat: int
    observation: Floats
    mask: Mask
    rewards: tuple[float, ...]
    finish: str = ""


class Game(Protocol):
    """One copy of an environment. What it raises, `BrokenGame` included, ends the episode and not the run."""

    spaces: Spaces

    def reset(self, seed: int) -> Turn:
        """Begin an episode that is a function of the seed and of the actions."""

    def step(self, action: int) -> Turn:
        """Let the seat whose turn it is act."""

    def left(self, seat: int) -> Floats:
        """What a seat sees when a game was truncated."""

    def close(self) -> None:
        """Give back what the environment holds."""


class Observations:
    """Turns what an environment shows into float32 arrays of one shape; one-hot for numbers.

    `read` raises `BrokenGame` for what is not in the space.
    """

    def __init__(self, space: Any, *, where: str) -> None:
        from gymnasium import spaces

        self._low = self._high = np.zeros(0, np.float32)
        self._size = 0
        if isinstance(space, spaces.Box):
            self.shape = tuple(int(length) for length in space.shape) or (1,)
            largest = np.finfo(np.float32).max  # without a bound it must be finite
            self._low = np.maximum(np.asarray(space.low, np.float32), -largest).reshape(self.shape)
            self._high = np.minimum(np.asarray(space.high, np.float32), largest).reshape(self.shape)
        elif isinstance(space, spaces.Discrete):
            self._size, self._start = int(space.n), int(space.start)
            self.shape = (self._size,)
        elif isinstance(space, spaces.MultiBinary):
            self.shape = tuple(int(length) for length in space.shape)
            self._low, self._high = np.zeros(self.shape, np.float32), np.ones(self.shape, np.float32)
        else:
            known = "Box, Discrete or MultiBinary, or a Dict of one as `observation` with an `action_mask`"
            raise DataError(f"{where}: its observations are {space}; a policy reads {known}")

    def read(self, raw: Any) -> Floats:
        """The observation as float32 of `shape`; a copy."""
        if self._size:
            at = int(raw) - self._start
            if not 0 <= at < self._size:
                raise BrokenGame(f"observation {raw!r} is outside its space of {self._size}")
            one_hot = np.zeros(self._size, np.float32)
            one_hot[at] = 1.0
            return one_hot
        observation: Floats = np.array(raw, dtype=np.float32)
        if observation.shape != self.shape:
            if observation.size != 1 or self.shape != (1,):
                raise BrokenGame(f"observation of shape {list(observation.shape)}; its space says {list(self.shape)}")
            observation = observation.reshape(1)
        inside = (observation >= self._low) & (observation <= self._high)
        if not inside.all():  # NaN is on neither side
            raise BrokenGame(f"observation holds {float(observation[~inside][0])}, outside its space")
        return observation


def read_mask(raw: Any, actions: int) -> Mask:
    """The legal actions as int8 of shape (actions,), 1 where legal; raises `BrokenGame` where there is none."""
    mask: Mask = np.array(raw, dtype=np.int8)
    if mask.shape != (actions,):
        raise BrokenGame(f"action mask of shape {list(mask.shape)} for {actions} actions")
    if not mask.any():
        raise BrokenGame("no action is legal")
    return mask


def read_reward(raw: Any) -> float:
    """A reward as a number; raises `BrokenGame` where it is none."""
    reward = float(raw)
    if not math.isfinite(reward):
        raise BrokenGame(f"reward is {reward}")
    return reward


def discrete_actions(space: Any, *, where: str) -> int:
    """How many actions there are; raises `DataError` where they are not numbered from 0."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Discrete) or int(space.start) != 0:
        raise DataError(f"{where}: its actions are {space}; the policies here choose among Discrete(n)")
    return int(space.n)
