"""`stand_in`: a game that accepts every move, in place of a server in dry play."""

from genrl_graph.nodes.games.text_game import Spoken, TextTurn

MOVES = 3


class StandIn:
    """Each of some seats makes `MOVES` moves in turn; nothing is earned."""

    deterministic = True

    def __init__(self, seats: int = 1, legal: bool = False) -> None:
        self.seats, self._legal, self._moves = seats, ["1", "2"] if legal else None, 0

    def reset(self, seed: int) -> TextTurn:
        """Begin an episode."""
        self._moves = 0
        return self._turn()

    def step(self, action: str) -> TextTurn:
        """Accept any move."""
        self._moves += 1
        return self._turn()

    def close(self) -> None:
        """Do nothing: the game holds no resources."""

    def _turn(self) -> TextTurn:
        nothing = (0.0,) * self.seats
        if self._moves == MOVES * self.seats:
            return TextTurn(0, (), nothing, ends=dict.fromkeys(range(self.seats), "terminated"), over=True)
        return TextTurn(self._moves % self.seats, [Spoken("?")], nothing, self._legal)
