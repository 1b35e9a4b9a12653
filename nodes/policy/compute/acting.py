"""Policies that act in games: what generators and updates ask of them, without torch."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from genrl_graph.contract.node import PolicyCarry
from genrl_graph.contract.policy import Policy
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.game import Spaces

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Masks = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class ActorOutput:
    """Chosen actions, their log-probs and the values of what was seen, each of shape (rows,)."""

    actions: NDArray[np.int32]
    logprobs: Floats
    values: Floats


class Actor(Policy):
    """A policy that chooses among numbered actions."""

    spaces: Spaces

    @abstractmethod
    def act(self, observations: Floats, masks: Masks, *, rng: np.random.Generator, greedy: bool = False) -> ActorOutput:
        """One action a row for observations [rows, ...] and legal actions [rows, actions]; `greedy` takes the best."""

    @abstractmethod
    def values(self, observations: Floats, masks: Masks) -> Floats:
        """What the rows are worth, shape (rows,)."""

    @abstractmethod
    def frozen(self, name: str) -> Self:
        """A copy of the weights without optimiser state, to play against."""


class TrainedActor(Actor):
    """An actor whose network an update can train."""

    @abstractmethod
    def tensor(self, values: "NDArray[np.generic]") -> "Tensor":
        """An array as a tensor where the weights are."""

    @abstractmethod
    def backward(self, loss: "Tensor") -> None:
        """Add the gradients of one batch."""

    @abstractmethod
    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """Apply the gradients, clipped to `max_grad_norm`; `version` grows by 1. Returns the norm before clipping.

        A norm that is not finite applies nothing and raises `NodeFailed`.
        """


class ActorCritic(TrainedActor):
    """An actor with a critic."""

    @abstractmethod
    def evaluate(self, observations: "Tensor", masks: "Tensor") -> "tuple[Tensor, Tensor]":
        """Log-probs of all actions [rows, actions], the illegal ones about -inf, and values [rows]; with gradients."""


class QNetwork(TrainedActor):
    """An actor that takes the action of the highest value, with a slowly following copy of the network as target."""

    @abstractmethod
    def action_values(self, observations: "Tensor", *, target: bool = False) -> "Tensor":
        """Values of all actions [rows, actions]; those of the target have no gradients."""

    @abstractmethod
    def sync_target(self) -> None:
        """Let the target become the network."""


class NetworkCarry(PolicyCarry):
    """A network for a game: its sizes are those of `environment`, or `observation` and `actions` where it has none.

    `channels` are 3 x 3 convolutions over an observation of height x width x planes, before the `hidden` layers.
    """

    small = True

    environment: Environment | None = None
    observation: tuple[int, ...] | None = Field(None, description="shape of an observation")
    actions: int | None = Field(None, ge=1, description="how many actions there are")
    hidden: tuple[int, ...] = Field((64, 64), description="widths of the layers between")
    channels: tuple[int, ...] = Field((), description="output channels of the convolutions, none for a plain network")
    device: str = "cpu"

    @model_validator(mode="after")
    def _sized(self) -> Self:
        given = self.observation is not None, self.actions is not None
        if given != ((False, False) if self.environment is not None else (True, True)):
            raise ValueError("give either environment, or observation and actions")
        sizes: Sequence[int] = (*(self.observation or ()), *self.hidden, *self.channels)
        if any(size < 1 for size in sizes):
            raise ValueError(f"sizes are at least 1, got {min(sizes)}")
        if self.channels and self.observation is not None and len(self.observation) != 3:
            raise ValueError(f"convolutions read height x width x planes, not {list(self.observation)}")
        return self

    def spaces(self) -> Spaces:
        """What the network reads and gives; raises `DataError` where its environment cannot be made."""
        if self.environment is not None:
            return self.environment.spaces()
        assert self.observation is not None and self.actions is not None, "the validator wants both"
        return Spaces(self.observation, self.actions)
