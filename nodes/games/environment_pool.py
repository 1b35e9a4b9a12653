"""A pool of open environments, which rounds reuse instead of opening them again."""

from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.game import Game


class GamePool:
    """A pool of idle copies of environments.

    All pools compare equal, because a node's cache must not make it unequal to another node.
    """

    def __init__(self) -> None:
        self._idle: dict[str, list[Game]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GamePool)

    __hash__ = None  # type: ignore[assignment]

    def take(self, environment: Environment) -> Game:
        """Return an idle copy, or open a new one; raises `DataError` if the environment cannot be opened."""
        idle = self._idle.get(environment.model_dump_json())
        return idle.pop() if idle else environment.open()

    def give_back(self, environment: Environment, game: Game) -> None:
        """Return a copy to the pool after its episode; never one whose episode failed."""
        self._idle.setdefault(environment.model_dump_json(), []).append(game)
