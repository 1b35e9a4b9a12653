"""A Gymnasium environment whose observations and actions are text, as a game of one seat."""

from collections.abc import Mapping
from typing import Any

from genrl_graph.nodes.games.game import GameError
from genrl_graph.nodes.games.text_game import Spoken, TextTurn


def speaks_text(env: Any) -> bool:
    """Return whether an environment's spaces are both `Text`."""
    from gymnasium import spaces

    return isinstance(env.observation_space, spaces.Text) and isinstance(env.action_space, spaces.Text)


class GymnasiumTextGame:
    """A game of one seat. The legal actions are `legal_actions` of `info`; without it the environment judges them.

    It is deterministic unless its registration says `nondeterministic`.
    """

    seats = 1

    def __init__(self, env: Any) -> None:
        self._env = env
        self.deterministic = not (env.spec is not None and env.spec.nondeterministic)

    def reset(self, seed: int) -> TextTurn:
        """Start an episode."""
        observation, info = self._env.reset(seed=seed)
        return TextTurn(0, [Spoken(observation)], (0.0,), _legal(info))

    def step(self, action: str) -> TextTurn:
        """Play an action."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        if terminated or truncated:
            return TextTurn(0, (), (reward,), None, {0: "terminated" if terminated else "truncated"}, over=True)
        return TextTurn(0, [Spoken(observation)], (reward,), _legal(info))

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _legal(info: Mapping[str, Any]) -> list[str] | None:
    legal = info.get("legal_actions")
    if legal is not None and not isinstance(legal, list | tuple):
        raise GameError(f"legal_actions is a {type(legal).__name__}, not a list of texts")
    return None if legal is None else list(legal)
