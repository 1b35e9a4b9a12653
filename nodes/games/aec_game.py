"""A PettingZoo AEC environment as a game of several seats."""

from typing import Any

import numpy as np

from genrl_graph.errors import DataError
from genrl_graph.nodes.games.game import (
    Floats,
    GameError,
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
        self._encoder = ObservationEncoder(observed_space(observation_space), where=where)
        actions = discrete_actions(action_space, where=where)
        self.spaces = Spaces(self._encoder.shape, actions, len(agents))
        self._all_legal: Mask = np.ones(actions, np.int8)
        self._ended: set[str] = set()

    def reset(self, seed: int) -> Turn:
        """Start an episode."""
        self._env.reset(seed=seed)
        self._ended = set()
        return self._turn(self._rewards(), self._new_ends())

    def step(self, action: int) -> Turn:
        """Play the action of the agent to move; agents that are out of the game are skipped."""
        self._env.step(action)
        return self._turn(self._rewards(), self._new_ends())

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _rewards(self) -> tuple[float, ...]:
        rewards = self._env.rewards
        return tuple(read_reward(rewards.get(agent, 0.0)) for agent in self._agents)

    def _turn(self, rewards: tuple[float, ...], ends: dict[int, SeatEnd]) -> Turn:
        """Return the next turn; agents that are out are stepped until one in the game is selected."""
        env = self._env
        for _ in self._agents:
            if len(self._ended) == len(self._agents):
                return Turn(0, np.zeros(0, np.float32), self._all_legal, rewards, ends, over=True)
            agent = env.agent_selection
            if agent not in self._ended:
                observation, mask = self._observe(agent)
                return Turn(self._seats[agent], observation, mask, rewards, ends)
            env.step(None)
            ends |= self._new_ends()
        raise GameError("every agent is out of the game, but it does not end")

    def _new_ends(self) -> dict[int, SeatEnd]:
        """Return the ends of the seats that ended since the last call; agents that are gone are not observed."""
        env = self._env
        ends = {}
        for agent in self._agents:
            if agent in self._ended or (agent in env.agents and not self._is_out(agent)):
                continue
            self._ended.add(agent)
            is_truncated = env.truncations.get(agent) and not env.terminations.get(agent) and agent in env.agents
            end = SeatEnd("truncated", self._observe(agent)[0]) if is_truncated else SeatEnd("terminated")
            ends[self._seats[agent]] = end
        return ends

    def _is_out(self, agent: str) -> bool:
        return bool(self._env.terminations[agent] or self._env.truncations[agent])

    def _observe(self, agent: str) -> tuple[Floats, Mask]:
        """Return the observation of an agent and its legal actions, all where it is out of the game."""
        observation, mask = split_observation(self._env.observe(agent), self._env.infos[agent])
        if mask is None or agent in self._ended:
            return self._encoder.encode(observation), self._all_legal
        return self._encoder.encode(observation), read_mask(mask, self.spaces.actions)
