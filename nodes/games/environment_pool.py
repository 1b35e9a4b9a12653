"""A pool of open environments, which rounds reuse instead of opening them again."""

from collections.abc import Callable
from typing import Generic, TypeVar

from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.text_game import CheckedTextGame

G = TypeVar("G")


class GamePool(Generic[G]):
    """A pool of idle copies of environments, which `open` makes.

    All pools compare equal, because a node's cache must not make it unequal to another node.
    """

    def __init__(self, open: Callable[[Environment], G]) -> None:
        self._open = open
        self._idle: dict[str, list[G]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GamePool)

    __hash__ = None  # type: ignore[assignment]

    def take(self, environment: Environment) -> G:
        """Return an idle copy, or open a new one; raises `DataError` if the environment cannot be opened."""
        idle = self._idle.get(environment.model_dump_json())
        return idle.pop() if idle else self._open(environment)

    def give_back(self, environment: Environment, game: G) -> None:
        """Return a copy to the pool after its episode, which takes nothing at a server; never one that failed."""
        if isinstance(game, CheckedTextGame):
            game.release()
        self._idle.setdefault(environment.model_dump_json(), []).append(game)
