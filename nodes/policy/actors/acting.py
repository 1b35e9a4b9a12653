"""Interfaces of policies that act in games, and the base class of their carries; imports no torch."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from genrl_graph.contract.node import PolicyCarry
from genrl_graph.contract.policy import Policy, TrainedPolicy
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.game import Spaces

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Masks = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class ActorOutput:
    """Chosen actions, their log-probs, and the values of the observations, each of shape (rows,)."""

    actions: NDArray[np.int32]
    logprobs: Floats
    values: Floats


class Actor(Policy):
    """A policy with discrete actions."""

    spaces: Spaces

    @abstractmethod
    def act(self, observations: Floats, masks: Masks, *, rng: np.random.Generator, greedy: bool = False) -> ActorOutput:
        """Choose one action per row, given observations [rows, ...] and masks of legal actions [rows, actions].

        `greedy` takes the best action instead of sampling or exploring.
        """

    @abstractmethod
    def values(self, observations: Floats, masks: Masks) -> Floats:
        """Estimate the return from each observation, shape (rows,)."""


class TrainedActor(Actor, TrainedPolicy):
    """An actor that updates can train."""

    @abstractmethod
    def tensor(self, values: "NDArray[np.generic]") -> "Tensor":
        """Return an array as a tensor on the device of the weights."""


class ActorCritic(TrainedActor):
    """An actor with a critic."""

    @abstractmethod
    def evaluate(self, observations: "Tensor", masks: "Tensor") -> "tuple[Tensor, Tensor]":
        """Return log-probs of all actions [rows, actions] and values [rows], with gradients.

        Illegal actions have log-probs near -1e8.
        """


class QNetwork(TrainedActor):
    """An actor that takes the action of highest value, with a target network that is updated less often."""

    @abstractmethod
    def action_values(self, observations: "Tensor", *, target: bool = False) -> "Tensor":
        """Return the values of all actions [rows, actions]; those of the target network have no gradients."""

    @abstractmethod
    def sync_target(self) -> None:
        """Copy the network's weights to the target network."""


class NetworkCarry(PolicyCarry):
    """A network for a game; its sizes come from `environment`, or from `observation` and `actions`.

    `channels` adds 3 x 3 convolutions before the `hidden` layers, for observations of height x width x planes.
    """

    small = True

    environment: Environment | None = Field(
        default=None,
        description="environment whose observations and actions give the sizes; null: set observation and actions",
    )
    observation: tuple[int, ...] | None = Field(default=None, description="shape of an observation")
    actions: int | None = Field(default=None, ge=1, description="number of actions")
    hidden: tuple[int, ...] = Field(default=(64, 64), description="widths of the hidden layers")
    channels: tuple[int, ...] = Field(
        default=(), description="output channels of the convolutions, none for a plain network"
    )
    device: str = Field(
        default="cpu",
        description="torch device that computes, such as cpu or cuda:0; auto: this process's GPU, or else the CPU",
    )

    @model_validator(mode="after")
    def _sized(self) -> Self:
        sized = self.observation is not None, self.actions is not None
        if sized != ((False, False) if self.environment is not None else (True, True)):
            raise ValueError("give either environment, or observation and actions")
        sizes: Sequence[int] = (*(self.observation or ()), *self.hidden, *self.channels)
        if any(size < 1 for size in sizes):
            raise ValueError(f"sizes are at least 1, got {min(sizes)}")
        if self.channels and self.observation is not None and len(self.observation) != 3:
            raise ValueError(f"convolutions read height x width x planes, not {list(self.observation)}")
        return self

    def spaces(self) -> Spaces:
        """Return the shape of observations and the number of actions.

        Raises `DataError` if the environment cannot be opened.
        """
        if self.environment is not None:
            return self.environment.spaces()
        assert self.observation is not None and self.actions is not None, "the validator requires both"
        return Spaces(self.observation, self.actions)
