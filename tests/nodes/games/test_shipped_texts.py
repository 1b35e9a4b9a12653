"""The games in text that the library ships: what they say, what they pay, and which params they refuse."""

import numpy as np
import pytest

from genrl_graph.errors import DataError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.text_game import CheckedTextGame
from genrl_graph.nodes.games.texts.negotiation import ACCEPT


def game(id: str, **params: int) -> CheckedTextGame:
    return Environment(kind="text", id=id, params=params).open_text()


def test_a_number_is_found_by_halving_within_its_guesses() -> None:
    guessing, secrets = game("guess_number"), set()
    for seed in range(60):
        turn, low, high, said = guessing.reset(seed), 1, 10, 0
        assert turn.heard[0].text == "Guess my number from 1 to 10. You have 4 guesses."
        while not turn.over:
            guess = (low + high) // 2
            turn, said = guessing.step(str(guess)), said + 1
            if not turn.over:
                assert turn.heard[0].text.endswith("1 guess left." if said == 3 else f"{4 - said} guesses left.")
                low, high = (guess + 1, high) if " too low. " in turn.heard[0].text else (low, guess - 1)
        assert turn.rewards == (1.0,)
        secrets.add(guess)
    assert secrets == set(range(1, 11))


def test_guesses_run_out() -> None:
    guessing = game("guess_number", high=3, guesses=2)
    seed = next(seed for seed in range(9) if guessing.reset(seed) and "too low" in guessing.step("1").heard[0].text)
    guessing.reset(seed)
    assert not guessing.step("1").over
    turn = guessing.step("1")
    assert turn.over and turn.rewards == (0.0,) and turn.ends == {0: "terminated"}


def test_a_deal_pays_each_seat_what_its_items_are_worth_to_it() -> None:
    dealing = game("negotiation", kinds=2, most=3)
    for seed in range(20):
        opening = dealing.reset(seed)
        items, values = opening.heard[0].text.removeprefix("items ").split(" worth ")
        assert ACCEPT not in (opening.legal or ()) and items in (opening.legal or ())
        turn = dealing.step(f"{items[0]}0")
        assert turn.seat == 1 and (turn.heard[1].text, turn.heard[1].speaker) == (f"I want {items[0]}0", "seat 0")
        theirs = turn.heard[0].text.partition(" worth ")[2]
        for own in (values, theirs):
            assert sum(int(count) * int(value) for count, value in zip(items, own, strict=True)) == 10
        over = dealing.step(ACCEPT)
        assert np.allclose(over.rewards, [int(items[0]) * int(values[0]) / 10, int(items[1]) * int(theirs[1]) / 10])


def test_without_a_deal_nobody_is_paid() -> None:
    dealing = game("negotiation", proposals=3)
    turn = dealing.reset(0)
    for seat in (0, 1, 0):
        assert turn.seat == seat and not turn.over
        turn = dealing.step((turn.legal or ())[-1])
    assert turn.over and turn.rewards == (0.0, 0.0)


@pytest.mark.parametrize(
    ("id", "params"),
    [("guess_number", {"low": 5, "high": 5}), ("negotiation", {"kinds": 9}), ("negotiation", {"x": 1})],
)
def test_params_that_make_no_game_are_a_line(id: str, params: dict[str, int]) -> None:
    with pytest.raises(DataError, match=f"text {id}: cannot be made with params"):
        game(id, **params)
