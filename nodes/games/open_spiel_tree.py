"""The game tree of an OpenSpiel game: all its decisions, and the exploitability of a policy over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genrl_graph.errors import DataError
from genrl_graph.nodes.games.open_spiel_game import OpenSpielGame


@dataclass(frozen=True, slots=True)
class Decision:
    """An information state: the seat to move, its moves so far, what it hears, and its legal actions as text."""

    key: str
    seat: int
    turn: int
    heard: str
    actions: tuple[int, ...]
    texts: tuple[str, ...]


def decisions(game: OpenSpielGame, *, most: int) -> list[Decision]:
    """Return every information state of a game, in the order of its tree.

    Raises `DataError` unless the game has two seats, constant sum and information states, and at most `most` states.
    """
    import pyspiel

    kind, utilities = game.spiel.get_type(), pyspiel.GameType.Utility
    if game.seats != 2 or kind.utility not in (utilities.ZERO_SUM, utilities.CONSTANT_SUM):
        raise DataError(f"{game.where}: exploitability is of games of two seats whose returns have a constant sum")
    if not kind.provides_information_state_string:
        raise DataError(f"{game.where}: the game has no information states as text, which its tree is searched by")
    known: dict[str, Decision] = {}
    waiting: list[tuple[Any, tuple[int, ...]]] = [(game.spiel.new_initial_state(), (0,) * game.seats)]
    visited = 0
    while waiting:
        state, turns = waiting.pop()
        visited += 1
        if visited > most:
            raise DataError(f"{game.where}: its tree has more than {most} states; raise max_states, or leave it out")
        actions = [] if state.is_terminal() else state.legal_actions()
        if actions and not state.is_chance_node():
            seat = int(state.current_player())
            key = state.information_state_string(seat)
            if key not in known:
                texts = tuple(game.texts(state))
                known[key] = Decision(key, seat, turns[seat], game.heard(state), tuple(actions), texts)
            turns = tuple(count + (at == seat) for at, count in enumerate(turns))
        waiting += [(state.child(action), turns) for action in reversed(actions)]
    return list(known.values())


def exploitability(game: OpenSpielGame, chances: Mapping[str, Sequence[float]], known: Sequence[Decision]) -> float:
    """Return how much a best response gains on average over the seats, in a seat's return: 0 in a Nash equilibrium.

    `chances` are the probabilities of a decision's actions, by its key. OpenSpiel (arXiv 1908.09453) searches the tree.
    """
    import pyspiel

    table = {each.key: list(zip(each.actions, chances[each.key], strict=True)) for each in known}
    return float(pyspiel.exploitability(game.spiel, pyspiel.TabularPolicy(table)))
