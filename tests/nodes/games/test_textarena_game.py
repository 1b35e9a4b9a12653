"""Games of TextArena: each seat hears what is new to it, and games side by side do not change each other's chance."""

import random

import pytest

from genrl_graph.errors import DataError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.text_game import CheckedTextGame, TextTurn

KUHN_MOVES = ("[check]", "[bet]", "[call]", "[fold]")


def game(id: str, **params: int) -> CheckedTextGame:
    return Environment(kind="textarena", id=id, params=params).open_text()


def texts(turn: TextTurn) -> list[tuple[str, str]]:
    return [(message.speaker, message.text) for message in turn.heard]


def test_a_game_speaks_to_each_seat_and_pays_at_the_end() -> None:
    board = game("TicTacToe-v0")
    assert str(board.spaces) == "text, 2 seats, deterministic"
    turn, seats = board.reset(1), []
    for cell in (0, 3, 1, 4):
        seats.append(turn.seat)
        turn = board.step(f"[{cell}]")
        assert not turn.over and turn.rewards == (0.0, 0.0) and turn.legal is None
    assert any(speaker == "seat 1" and "[4]" in text for speaker, text in texts(turn)), "what the other seat did"
    assert not any(speaker == "seat 0" for speaker, _ in texts(turn)), "its own words are in its chat"
    turn = board.step("[2]")
    assert turn.over and turn.rewards == (1.0, -1.0) and seats == [0, 1, 0, 1]


def test_an_invalid_move_is_forgiven_once() -> None:
    board = game("TicTacToe-v0")
    board.reset(1)
    assert board.step("nonsense").seat == 0
    turn = board.step("nonsense")
    assert turn.over and turn.rewards == (-1.0, 1.0)


def kuhn(environment: CheckedTextGame, seed: int, moves: random.Random) -> list[list[tuple[str, str]]]:
    """Play any moves until the game is over; return what was heard."""
    turn, heard = environment.reset(seed), []
    while not turn.over:
        heard.append(texts(turn))
        turn = environment.step(moves.choice(KUHN_MOVES))
    return heard


def test_games_side_by_side_are_those_that_are_played_alone() -> None:
    alone = [kuhn(game("KuhnPoker-v0"), seed, random.Random(seed)) for seed in range(3)]
    environments = [game("KuhnPoker-v0") for _ in range(3)]
    outside = random.getstate()
    moves = [random.Random(seed) for seed in range(3)]
    turns = [environment.reset(seed) for seed, environment in enumerate(environments)]
    heard: list[list[list[tuple[str, str]]]] = [[], [], []]
    while not all(turn.over for turn in turns):
        for at, turn in enumerate(turns):
            if not turn.over:
                heard[at].append(texts(turn))
                turns[at] = environments[at].step(moves[at].choice(KUHN_MOVES))
    assert heard == alone
    assert random.getstate() == outside, "the global random numbers are as they were"
    again = environments[0]
    kuhn(again, 7, random.Random(7))
    assert kuhn(again, 0, random.Random(0)) == alone[0], "an earlier episode leaves nothing behind"


@pytest.mark.parametrize(
    ("id", "params", "message"),
    [
        ("TicTacTo-v0", {}, r"textarena has no such game \(did you mean 'TicTacToe-v0'"),
        (
            "TicTacToe-v0",
            {"players": 3},
            "no game begins with 3 seats: AssertionError: The number of players",
        ),
        ("TicTacToe-v0", {"size": 3}, "no game begins with .* seats: TypeError: "),
    ],
)
def test_what_does_not_open_is_a_line(id: str, params: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=f"textarena {id}: {message}"):
        game(id, **params)
