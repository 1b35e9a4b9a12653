"""A game of TextArena (arXiv 2504.11442) in text, in its raw form: each seat hears what is new to it."""

from typing import Any

from genrl_graph.errors import DataError
from genrl_graph.messages import did_you_mean
from genrl_graph.nodes.games.own_random import OwnRandom
from genrl_graph.nodes.games.text_game import NARRATOR, Spoken, TextEnding, TextTurn

SEATS = (1, 2, 3, 4, 5, 6, 8)
"""Numbers of seats that are tried, in this order, where `players` does not say how many."""


class TextArenaGame:
    """A game by its id, such as TicTacToe-v0; `players` is its number of seats, by default the first that it takes.

    The game judges actions itself: it forgives an invalid move once, and ends at the second. Rewards come at the end.
    TextArena draws from Python's global random numbers; a game here has a state of its own, which is put in their place
    while it computes. Every episode has a new environment, since some keep a deck of the last one.
    """

    deterministic = True

    def __init__(self, id: str, *, where: str, players: int | None = None, **params: Any) -> None:
        import textarena

        self._make, self._id, self._params = textarena.make, f"{id}-raw", params
        registry = textarena.envs.registration.ENV_REGISTRY
        known = [name.removesuffix("-raw") for name in registry if name.endswith("-raw")]
        if id not in known:
            hint = did_you_mean(id, known) or "; name one such as TicTacToe-v0"
            raise DataError(f"{where}: textarena has no such game{hint}")
        self._random = OwnRandom()
        self._env: Any = None
        self.seats = self._tried((players,) if players is not None else SEATS, where=where)

    def _tried(self, counts: tuple[int, ...], *, where: str) -> int:
        """Return the first number of seats with which a game begins."""
        reason = ""
        for count in counts:
            self.seats = count
            try:
                self.reset(0)
            except Exception as error:  # each game refuses numbers of seats in its own way, or lacks a file or a key
                reason = reason or f"{type(error).__name__}: {' '.join(str(error).split())}"
            else:
                return count
        raise DataError(f"{where}: no game begins with {', '.join(map(str, counts))} seats: {reason}")

    def reset(self, seed: int) -> TextTurn:
        """Start an episode in a new environment."""
        self._random.seed(seed)
        with self._random.drawn():
            self._env = self._make(self._id, **self._params)
            self._env.reset(num_players=self.seats, seed=seed)
            return self._turn()

    def step(self, action: str) -> TextTurn:
        """Play the action of the seat to move."""
        with self._random.drawn():
            done, _ = self._env.step(action)
            if not done:
                return self._turn()
            rewards, _ = self._env.close()
        ends: dict[int, TextEnding] = dict.fromkeys(range(self.seats), "terminated")
        earned = rewards or {}
        return TextTurn(0, (), [float(earned.get(seat, 0.0)) for seat in range(self.seats)], ends=ends, over=True)

    def close(self) -> None:
        """Do nothing: a game of TextArena holds no resources."""

    def _turn(self) -> TextTurn:
        seat, seen = self._env.get_observation()
        heard = [Spoken(str(text), _speaker(by)) for by, text, _ in seen if by != seat]
        return TextTurn(int(seat), heard, (0.0,) * self.seats)


def _speaker(by: int) -> str:
    return NARRATOR if by < 0 else f"seat {by}"
