"""A Gymnasium environment as a game of one seat."""

from typing import Any

import numpy as np

from genrl_graph.nodes.games.game import (
    Floats,
    Mask,
    ObservationEncoder,
    Spaces,
    Turn,
    discrete_actions,
    read_mask,
    read_reward,
)


class GymnasiumGame:
    """A game of one seat; the action mask is the `action_mask` of `info`, without one all actions are legal."""

    def __init__(self, env: Any, *, where: str) -> None:
        self._env = env
        self._encoder = ObservationEncoder(env.observation_space, where=where)
        actions = discrete_actions(env.action_space, where=where)
        self.spaces = Spaces(self._encoder.shape, actions)
        self._all_legal: Mask = np.ones(actions, np.int8)
        self._last: Floats = np.zeros(self.spaces.observation, np.float32)

    def reset(self, seed: int) -> Turn:
        """Start an episode."""
        raw, info = self._env.reset(seed=seed)
        return self._turn(raw, info, (0.0,), "")

    def step(self, action: int) -> Turn:
        """Play an action."""
        raw, reward, terminated, truncated, info = self._env.step(action)
        finish = "terminated" if terminated else "truncated" if truncated else ""
        return self._turn(raw, info, (read_reward(reward),), finish)

    def final_observation(self, seat: int) -> Floats:
        """Return the observation after the last action."""
        return self._last

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _turn(self, raw: Any, info: Any, rewards: tuple[float, ...], finish: str) -> Turn:
        self._last = self._encoder.encode(raw)
        mask = self._all_legal
        if not finish and "action_mask" in info:
            mask = read_mask(info["action_mask"], self.spaces.actions)
        return Turn(0, self._last, mask, rewards, finish)
