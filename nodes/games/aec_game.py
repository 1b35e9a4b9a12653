"""A PettingZoo AEC environment as a game of several seats."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from genrl_graph.errors import DataError
from genrl_graph.nodes.games.game import (
    Floats,
    GameError,
    Mask,
    ObservationEncoder,
    Spaces,
    Turn,
    discrete_actions,
    read_mask,
    read_reward,
)


class AecGame:
    """A game whose seats are the `possible_agents`, in their order; all must have the same spaces.

    The action mask is the `action_mask` of the observation or of `infos`; without one all actions are legal.
    """

    def __init__(self, env: Any, *, where: str) -> None:
        self._env, agents = env, list(env.possible_agents)
        self._agents, self._seats = agents, {agent: seat for seat, agent in enumerate(agents)}
        observation_space, action_space = env.observation_space(agents[0]), env.action_space(agents[0])
        for agent in agents[1:]:
            if (env.observation_space(agent), env.action_space(agent)) != (observation_space, action_space):
                raise DataError(f"{where}: {agents[0]} and {agent} have different spaces; one policy plays all seats")
        parts = getattr(observation_space, "spaces", None)  # only a Dict space has parts
        inner = parts.get("observation", observation_space) if isinstance(parts, Mapping) else observation_space
        self._encoder = ObservationEncoder(inner, where=where)
        actions = discrete_actions(action_space, where=where)
        self.spaces = Spaces(self._encoder.shape, actions, len(agents))
        self._all_legal: Mask = np.ones(actions, np.int8)

    def reset(self, seed: int) -> Turn:
        """Start an episode."""
        self._env.reset(seed=seed)
        return self._turn(self._rewards())

    def step(self, action: int) -> Turn:
        """Play the action of the agent to move; agents that are out of the game are skipped."""
        self._env.step(action)
        return self._turn(self._rewards())

    def final_observation(self, seat: int) -> Floats:
        """Return what an agent observes after the last action."""
        raw = self._env.observe(self._agents[seat])
        return self._encoder.encode(raw["observation"] if isinstance(raw, Mapping) else raw)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _rewards(self) -> tuple[float, ...]:
        rewards = self._env.rewards
        return tuple(read_reward(rewards.get(agent, 0.0)) for agent in self._agents)

    def _turn(self, rewards: tuple[float, ...]) -> Turn:
        env = self._env
        for _ in self._agents:
            agent = env.agent_selection
            if not self._is_out(agent):
                break
            if all(self._is_out(other) for other in env.agents):
                return self._last_turn(agent, rewards)
            env.step(None)
        else:
            raise GameError("every agent is out of the game, but it does not end")
        observation, mask = self._observe(agent)
        return Turn(self._seats[agent], observation, self._all_legal if mask is None else mask, rewards)

    def _last_turn(self, agent: str, rewards: tuple[float, ...]) -> Turn:
        env = self._env
        finish = "truncated" if any(env.truncations[other] for other in env.agents) else "terminated"
        return Turn(self._seats[agent], np.zeros(0, np.float32), self._all_legal, rewards, finish)

    def _is_out(self, agent: str) -> bool:
        return bool(self._env.terminations[agent] or self._env.truncations[agent])

    def _observe(self, agent: str) -> tuple[Floats, Mask | None]:
        raw = self._env.observe(agent)
        mask = self._env.infos[agent].get("action_mask")
        if isinstance(raw, Mapping):
            raw, mask = raw["observation"], raw.get("action_mask", mask)
        observation = self._encoder.encode(raw)
        return observation, None if mask is None else read_mask(mask, self.spaces.actions)
