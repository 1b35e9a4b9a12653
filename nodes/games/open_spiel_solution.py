"""Perfect play in games of OpenSpiel (arXiv 1908.09453) that are small enough to be solved."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrl_graph.errors import DataError

MOST_STATES = 100_000
"""Most states of a game that is solved."""
_TOLERANCE = 1e-6


class Solution:
    """Values of all actions at best play of both seats, in a game that OpenSpiel's minimax has solved."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table

    def best(self, state: Any) -> NDArray[np.bool_]:
        """Return which of the legal actions of a state, in their order, are worth most to the seat to move."""
        values = self._table[str(state)].action_values[state.legal_actions()]
        best: NDArray[np.bool_] = values >= values.max() - _TOLERANCE
        return best


@lru_cache(maxsize=8)
def solution(game: str) -> Solution:
    """Solve a game by its string, once in a process.

    Raises `DataError` unless it has two seats that move in turn, zero sum, no chance, nothing hidden, and at most
    `MOST_STATES` states.
    """
    import pyspiel
    from open_spiel.python.algorithms.minimax_solver import MinimaxSolver

    spiel, kinds = pyspiel.load_game(game), pyspiel.GameType
    kind = spiel.get_type()
    solvable = (
        spiel.num_players() == 2
        and kind.dynamics == kinds.Dynamics.SEQUENTIAL
        and kind.utility == kinds.Utility.ZERO_SUM
        and kind.chance_mode == kinds.ChanceMode.DETERMINISTIC
        and kind.information == kinds.Information.PERFECT_INFORMATION
    )
    if not solvable:
        raise DataError("perfect play is known of games of two seats with zero sum, and without chance and secrets")
    if _has_more_states(spiel, MOST_STATES):
        raise DataError(f"has more than {MOST_STATES} states, too many to be solved; remove the opponent `perfect`")
    return Solution(MinimaxSolver(game).solve())


def _has_more_states(spiel: Any, most: int) -> bool:
    """Return whether a game has more than `most` states before its end."""
    seen: set[str] = set()
    waiting = [spiel.new_initial_state()]
    while waiting and len(seen) <= most:
        state = waiting.pop()
        if not state.is_terminal() and str(state) not in seen:
            seen.add(str(state))
            waiting += [state.child(action) for action in state.legal_actions()]
    return len(seen) > most
