"""Environments that are kept from round to round, so that they are made once."""

from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.game import Game


class GamePool:
    """Hands out copies of environments and takes them back.

    All are equal: what a node keeps for speed does not make it another node.
    """

    def __init__(self) -> None:
        self._idle: dict[str, list[Game]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GamePool)

    __hash__ = None  # type: ignore[assignment]

    def take(self, environment: Environment) -> Game:
        """A copy that nobody plays; raises `DataError` where there is no such environment."""
        idle = self._idle.get(environment.model_dump_json())
        return idle.pop() if idle else environment.open()

    def give_back(self, environment: Environment, game: Game) -> None:
        """A copy whose episode ended well; one that broke is not to come back."""
        self._idle.setdefault(environment.model_dump_json(), []).append(game)
