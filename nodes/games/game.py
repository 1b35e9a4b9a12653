"""The interface through which generators play a game, and checks of what an environment returns."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from genrl_graph.errors import DataError

Floats = NDArray[np.float32]
Mask = NDArray[np.int8]


class GameError(Exception):
    """Raised if an environment returns invalid data; the episode is recorded as failed, with this reason."""


class EpisodeLost(GameError):
    """Raised if a remote environment loses an episode; it may begin again, up to `restarts` times in all."""

    def __init__(self, reason: str, *, restarts: int) -> None:
        super().__init__(reason)
        self.restarts = restarts


@dataclass(frozen=True, slots=True)
class Spaces:
    """The shape of an observation, the number of actions, and the number of seats of a game."""

    observation: tuple[int, ...]
    actions: int
    seats: int = 1

    def __str__(self) -> str:
        return f"observations {list(self.observation)}, {self.actions} actions"


@dataclass(frozen=True, slots=True)
class SeatEnd:
    """The end of a seat: "terminated", or "truncated" with what it observes after its last action."""

    finish_reason: Literal["terminated", "truncated"]
    observation: Floats | None = None


@dataclass(slots=True)
class Turn:
    """The seat to move, its observation and its legal actions.

    `rewards` holds what each seat earned since the previous turn, `ends` the seats that ended since. Each seat ends
    once, at its own time. When the game is `over`, all seats have ended and none is to move.
    """

    seat: int
    observation: Floats
    mask: Mask
    rewards: tuple[float, ...]
    ends: Mapping[int, SeatEnd] = field(default_factory=dict)
    over: bool = False


class Game(Protocol):
    """One copy of an environment; any exception it raises, `GameError` included, fails the episode, not the run."""

    spaces: Spaces

    def reset(self, seed: int) -> Turn:
        """Start an episode; seed and actions determine everything that happens in it."""

    def step(self, action: int) -> Turn:
        """Play the action of the seat to move."""

    def close(self) -> None:
        """Release the environment's resources."""


class ObservationEncoder:
    """Encodes observations of a space as float32 arrays of one shape; those of `Discrete` spaces are one-hot."""

    def __init__(self, space: Any, *, where: str) -> None:
        from gymnasium import spaces

        self._low = self._high = np.zeros(0, np.float32)
        self._size = 0
        if isinstance(space, spaces.Box):
            self.shape = tuple(int(length) for length in space.shape) or (1,)
            largest = np.finfo(np.float32).max  # unbounded spaces must still give finite values
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

    def encode(self, raw: Any) -> Floats:
        """Return a float32 copy of shape `shape`; raises `GameError` for an observation outside the space."""
        if self._size:
            index = int(raw) - self._start
            if not 0 <= index < self._size:
                raise GameError(f"observation {raw!r} is outside its space of {self._size}")
            one_hot = np.zeros(self._size, np.float32)
            one_hot[index] = 1.0
            return one_hot
        observation: Floats = np.array(raw, dtype=np.float32)
        if observation.shape != self.shape:
            if observation.size != 1 or self.shape != (1,):
                raise GameError(f"observation of shape {list(observation.shape)}; its space says {list(self.shape)}")
            observation = observation.reshape(1)
        inside = (observation >= self._low) & (observation <= self._high)  # NaN fails both comparisons
        if not inside.all():
            raise GameError(f"observation holds {float(observation[~inside][0])}, outside its space")
        return observation


def observed_space(space: Any) -> Any:
    """Return the space that a policy observes: the part `observation` of a Dict space, or the space itself."""
    parts = getattr(space, "spaces", None)  # only a Dict space has parts by name
    return parts.get("observation", space) if isinstance(parts, Mapping) else space


def split_observation(raw: Any, info: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what a policy observes, and the action mask of the observation or of `info`; None: all are legal."""
    mask = info.get("action_mask")
    return (raw["observation"], raw.get("action_mask", mask)) if isinstance(raw, Mapping) else (raw, mask)


def read_mask(raw: Any, actions: int) -> Mask:
    """Return the mask as int8 [actions], 1 = legal; raises `GameError` for a wrong shape or if no action is legal."""
    mask: Mask = np.array(raw, dtype=np.int8)
    if mask.shape != (actions,):
        raise GameError(f"action mask of shape {list(mask.shape)} for {actions} actions")
    if not mask.any():
        raise GameError("no action is legal")
    return mask


def read_reward(raw: Any) -> float:
    """Return the reward as a float; raises `GameError` if it is not finite."""
    reward = float(raw)
    if not math.isfinite(reward):
        raise GameError(f"reward is {reward}")
    return reward


def discrete_actions(space: Any, *, where: str) -> int:
    """Return the number of actions; raises `DataError` if the space is not `Discrete` from 0 on."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Discrete) or int(space.start) != 0:
        raise DataError(f"{where}: its actions are {space}; policies choose among Discrete(n) only")
    return int(space.n)
