"""A game of OpenSpiel (arXiv 1908.09453) in text: states and legal actions as the library writes them."""

from typing import Any, Literal, get_args

import numpy as np

from genrl_graph.errors import DataError
from genrl_graph.nodes.games.text_game import Spoken, TextEnding, TextTurn

Actions = Literal["names", "numbers"]
Shows = Literal["auto", "observation", "information_state"]


class OpenSpielGame:
    """A sequential game; games of simultaneous moves are played turn by turn.

    At each turn a seat hears the state as it sees it: `shows` is its information state, which recalls all that it has
    seen, or its observation; auto is the information state in games of imperfect information, else the observation.
    `actions` are the library's names or numbers of the legal actions. Chance is drawn from the seed of the episode; a
    few games draw it themselves, and are not deterministic.
    """

    def __init__(self, game: Any, *, where: str, actions: str = "names", shows: str = "auto") -> None:
        import pyspiel

        for name, value, known in (("actions", actions, get_args(Actions)), ("shows", shows, get_args(Shows))):
            if value not in known:
                raise DataError(f"{where}: {name} is {value!r}; use {', '.join(known)}")
        kind = game.get_type()
        if kind.dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS:
            game = pyspiel.convert_to_turn_based(game)
        if kind.dynamics == pyspiel.GameType.Dynamics.MEAN_FIELD:
            raise DataError(f"{where}: is a mean-field game, which has no seats that move in turn")
        self.spiel, self.where, self._names = game, where, actions == "names"
        self._shows = _state_of(kind, shows, where=where)
        self.seats = int(game.num_players())
        self.deterministic = kind.chance_mode != pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC
        self._rng = np.random.default_rng(0)
        self._state: Any = None

    def reset(self, seed: int) -> TextTurn:
        """Start an episode; the seed determines the draws of chance."""
        self._rng = np.random.default_rng(seed)
        self._state = self.spiel.new_initial_state()
        self._draw_chance()
        return self._turn((0.0,) * self.seats)

    def step(self, action: str) -> TextTurn:
        """Play the legal action of this text; raises ValueError if there is none."""
        state = self._state
        before = state.returns()
        state.apply_action(state.legal_actions()[self.texts(state).index(action)])
        self._draw_chance()
        return self._turn(tuple(np.subtract(state.returns(), before).tolist()))

    def best_moves(self) -> list[str]:
        """Return the actions of perfect play as text; raises `DataError` for a game that cannot be solved."""
        from genrl_graph.nodes.games.open_spiel_solution import solution

        best = solution(str(self.spiel)).best(self._state)
        return [text for text, chosen in zip(self.texts(self._state), best, strict=True) if chosen]

    def close(self) -> None:
        """Do nothing: a game of OpenSpiel holds no resources."""

    def _turn(self, rewards: tuple[float, ...]) -> TextTurn:
        state = self._state
        if state.is_terminal():
            ends: dict[int, TextEnding] = dict.fromkeys(range(self.seats), "terminated")
            return TextTurn(0, (), rewards, None, ends, over=True)
        seat = int(state.current_player())
        return TextTurn(seat, [Spoken(self.heard(state))], rewards, self.texts(state))

    def heard(self, state: Any) -> str:
        """Return the text that the seat to move hears in a state of the game."""
        text: str = getattr(state, self._shows)(state.current_player())
        return text

    def texts(self, state: Any) -> list[str]:
        """Return the legal actions of a state as text, in their order."""
        seat, actions = state.current_player(), state.legal_actions()
        return [state.action_to_string(seat, action) if self._names else str(action) for action in actions]

    def _draw_chance(self) -> None:
        while self._state.is_chance_node():
            actions, chances = zip(*self._state.chance_outcomes(), strict=True)
            ends = np.cumsum(chances)
            drawn = int(np.searchsorted(ends, self._rng.random() * ends[-1], side="right"))
            self._state.apply_action(actions[min(drawn, len(actions) - 1)])


def _state_of(kind: Any, shows: str, *, where: str) -> str:
    """Return the name of the method that gives what a seat sees; raises `DataError` if the game does not have it."""
    import pyspiel

    hidden = kind.information == pyspiel.GameType.Information.IMPERFECT_INFORMATION
    known = {
        "information_state": kind.provides_information_state_string,
        "observation": kind.provides_observation_string,
    }
    wanted = "information_state" if hidden else "observation"
    if shows == "auto":
        wanted = wanted if known[wanted] else next((name for name, has in known.items() if has), wanted)
    else:
        wanted = shows
    if not known[wanted]:
        has = " or ".join(name for name, has in known.items() if has) or "no state as text"
        raise DataError(f"{where}: the game gives no {wanted} as text; it gives {has}")
    return f"{wanted}_string"
