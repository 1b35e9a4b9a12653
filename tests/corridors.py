"""Small environments, as a script for `--import`: some that behave, and one for each way in which one breaks."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv

from genrl_graph.nodes.games.environment import register_aec

Seen = tuple[Any, dict[str, Any]]
Step = tuple[Any, float, bool, bool, dict[str, Any]]


class Corridor(gymnasium.Env[Any, Any]):
    """Six cells, one-hot, begun in one of the first three; action 1 goes right, 0 left.

    To leave on the right pays 1, every step costs 0.01; after `limit` steps it is truncated. `breaks` names what goes
    wrong in the third step.
    """

    LENGTH = 6

    def __init__(self, breaks: str = "", limit: int = 50) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (self.LENGTH,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._breaks, self._limit = breaks, limit
        self._at = self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Seen:
        super().reset(seed=seed)
        if self._breaks == "reset":
            raise OSError("no such corridor")
        self._at, self._steps = int(self.np_random.integers(3)), 0
        return self._see(), {}

    def step(self, action: Any) -> Step:
        self._steps += 1
        wrong = self._breaks if self._steps == 3 else ""
        if wrong == "raise":
            raise RuntimeError("the floor\ngave way")
        self._at = max(0, self._at + (1 if action else -1))
        done = self._at == self.LENGTH
        self._at = min(self._at, self.LENGTH - 1)
        seen = self._see()
        if wrong in ("nan", "outside"):
            seen[1] = np.nan if wrong == "nan" else 7.0
        if wrong == "shape":
            seen = seen[:3]
        reward = np.nan if wrong == "reward" else float(done) - 0.01
        info = {"action_mask": np.zeros(2, np.int8)} if wrong == "illegal" else {}
        if self._breaks:  # it goes on at least until it breaks
            return seen, reward, False, False, info
        return seen, reward, done, self._steps >= self._limit and not done, info

    def _see(self) -> Any:
        return np.eye(self.LENGTH, dtype=np.float32)[self._at].copy()


class Numbers(gymnasium.Env[Any, Any]):
    """One step; the observation is a number of 4, and only the action of that number is legal, which pays 1."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Discrete(4), spaces.Discrete(4)
        self._number = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Seen:
        super().reset(seed=seed)
        self._number = int(self.np_random.integers(4))
        return self._number, {"action_mask": np.eye(4, dtype=np.int8)[self._number]}

    def step(self, action: Any) -> Step:
        return self._number, float(action == self._number), True, False, {}


class MaskedNumbers(Numbers):
    """The same, with the mask beside the observation, as in PettingZoo."""

    def __init__(self) -> None:
        super().__init__()
        mask = spaces.MultiBinary(4)
        self.observation_space = spaces.Dict({"observation": self.observation_space, "action_mask": mask})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Seen:
        number, info = super().reset(seed=seed)
        return {"observation": number, **info}, {}

    def step(self, action: Any) -> Step:
        number, *result = super().step(action)
        return {"observation": number, "action_mask": np.zeros(4, np.int8)}, *result  # type: ignore[return-value]


class Steering(gymnasium.Env[Any, Any]):
    """Takes a number from -1 to 1, which no policy here gives."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Heap(AECEnv[Any, Any, Any]):
    """Three players take one or two of ten in turn; to take pays what was taken to the others together.

    With `leaver` the second player is out after its first move; with `moves` the game is truncated after so many.
    """

    def __init__(self, leaver: bool = False, moves: int = 0) -> None:
        self.possible_agents = ["a", "b", "c"]
        self._leaver, self._moves = leaver, moves

    def observation_space(self, agent: Any) -> Any:
        return spaces.Box(0.0, 10.0, (2,), np.float32)

    def action_space(self, agent: Any) -> Any:
        return spaces.Discrete(2)

    def observe(self, agent: Any) -> Any:
        if agent not in self.agents:
            raise KeyError(f"{agent} is dead")
        return np.asarray([self._left, self.possible_agents.index(agent)], np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.agents, self._left, self._made = list(self.possible_agents), 10, 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict(self.rewards)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[Any, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = "a"

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            later = self._after(agent)
            self._was_dead_step(action)
            self.agent_selection = later if later in self.agents else (self.agents or [agent])[0]
            return
        taken = min(int(action) + 1, self._left)
        self._left, self._made = self._left - taken, self._made + 1
        self.rewards = {other: 0.0 if other == agent else taken / 2 for other in self.agents}
        if self._left == 0:
            self.terminations = dict.fromkeys(self.agents, True)
        elif self._moves and self._made >= self._moves:
            self.truncations = dict.fromkeys(self.agents, True)
        elif self._leaver and agent == "b":
            self.terminations["b"] = True
        self.agent_selection = self._after(agent)

    def close(self) -> None: ...

    def _after(self, agent: str) -> str:
        return self.agents[(self.agents.index(agent) + 1) % len(self.agents)]


gymnasium.register("test/Corridor-v0", Corridor)
gymnasium.register("test/Numbers-v0", Numbers)
gymnasium.register("test/MaskedNumbers-v0", MaskedNumbers)
gymnasium.register("test/Steering-v0", Steering)
register_aec("heap", Heap)
