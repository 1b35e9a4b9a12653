"""A Gymnasium environment as a game of one seat."""

from typing import Any

import numpy as np

from genrl_graph.nodes.games.game import (
    Mask,
    ObservationEncoder,
    SeatEnd,
    Spaces,
    Turn,
    discrete_actions,
    observed_space,
    read_mask,
    read_reward,
    split_observation,
)


class GymnasiumGame:
    """A game of one seat.

    The action mask is the `action_mask` of the observation or of `info`; without one all actions are legal.
    """

    def __init__(self, env: Any, *, where: str) -> None:
        self._env = env
        self._encoder = ObservationEncoder(observed_space(env.observation_space), where=where)
        actions = discrete_actions(env.action_space, where=where)
        self.spaces = Spaces(self._encoder.shape, actions)
        self._all_legal: Mask = np.ones(actions, np.int8)

    def reset(self, seed: int) -> Turn:
        """Start an episode."""
        raw, info = self._env.reset(seed=seed)
        observation, mask = split_observation(raw, info)
        return Turn(0, self._encoder.encode(observation), self._mask(mask), (0.0,))

    def step(self, action: int) -> Turn:
        """Play an action."""
        raw, reward, terminated, truncated, info = self._env.step(action)
        seen, mask = split_observation(raw, info)
        observation, rewards = self._encoder.encode(seen), (read_reward(reward),)
        if not (terminated or truncated):
            return Turn(0, observation, self._mask(mask), rewards)
        end = SeatEnd("terminated") if terminated else SeatEnd("truncated", observation)
        return Turn(0, observation, self._all_legal, rewards, {0: end}, over=True)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _mask(self, raw: Any) -> Mask:
        return self._all_legal if raw is None else read_mask(raw, self.spaces.actions)
