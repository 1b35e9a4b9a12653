"""Environments that speak text: what is known of them, their turns, and what no game may return."""

from pathlib import Path

import pytest

from genrl_graph.contract import registry
from genrl_graph.errors import DataError
from genrl_graph.nodes.games import open_spiel_solution
from genrl_graph.nodes.games.environment import Environment, register_text
from genrl_graph.nodes.games.game import GameError
from genrl_graph.nodes.games.text_game import Spoken, TextSpaces

registry.import_file(Path(__file__).parents[2] / "text_games.py")

KUHN = {"kind": "open_spiel", "id": "kuhn_poker"}


def environment(kind: str, id: str, **params: object) -> Environment:
    return Environment.model_validate({"kind": kind, "id": id, "params": params})


@pytest.mark.parametrize(
    ("kind", "id", "params", "spaces"),
    [
        ("open_spiel", "kuhn_poker", {}, TextSpaces(2, True)),
        ("open_spiel", "kuhn_poker", {"players": 3}, TextSpaces(3, True)),
        ("open_spiel", "matrix_rps", {}, TextSpaces(2, True)),  # simultaneous moves, played in turn
        ("open_spiel", "negotiation", {}, TextSpaces(2, False)),  # it draws chance itself
        ("gymnasium", "test/Echo-v0", {}, TextSpaces(1, True)),
        ("gymnasium", "test/Dice-v0", {}, TextSpaces(1, False)),
        ("text", "queue", {}, TextSpaces(3, True)),
    ],
)
def test_what_is_known_of_a_game(kind: str, id: str, params: dict[str, object], spaces: TextSpaces) -> None:
    assert environment(kind, id, **params).text_spaces() == spaces


@pytest.mark.parametrize(
    ("kind", "id", "params", "message"),
    [
        ("open_spiel", "kuhn_pokr", {}, "has no such game .did you mean 'kuhn_poker'"),
        ("open_spiel", "kuhn_poker", {"shows": "cards"}, "shows is 'cards'; use auto, observation, information_state"),
        ("open_spiel", "kuhn_poker", {"actions": "letters"}, "actions is 'letters'; use names, numbers"),
        ("open_spiel", "liars_dice", {"shows": "observation"}, "gives no observation as text; it gives information_st"),
        ("text", "gess", {}, "no script has registered such a game .did you mean 'guess'"),
        ("text", "broken", {}, "cannot be made with params {}: TypeError"),
        ("gymnasium", "CartPole-v1", {}, r"has observations \[4\], 2 actions, not text; play it with generate.play"),
    ],
)
def test_a_game_that_cannot_be_opened_is_named(kind: str, id: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        environment(kind, id, **params).text_spaces()


def test_best_moves_are_those_of_perfect_play() -> None:
    game = environment("open_spiel", "tic_tac_toe", actions="numbers").open_text()
    turns = {(): "012345678", ("4",): "0268", ("0",): "4", ("4", "0", "8"): "26", ("0", "4", "1"): "2"}
    for played, best in turns.items():
        game.reset(0)
        for move in played:
            game.step(move)
        assert "".join(game.best_moves()) == best


@pytest.mark.parametrize(
    ("kind", "id", "message"),
    [
        ("open_spiel", "kuhn_poker", "kuhn_poker: perfect play is known of games of two seats with zero sum"),
        ("open_spiel", "nim", "has more than 5 states, too many to be solved; remove the opponent `perfect`"),
        ("text", "queue", "text queue: perfect play is not known; remove the opponent `perfect`"),
    ],
)
def test_a_game_without_known_perfect_play_is_named(
    kind: str, id: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_spiel_solution, "MOST_STATES", 5)
    with pytest.raises(DataError, match=message):
        environment(kind, id).prove_perfect_play()


def test_a_game_in_text_is_not_one_of_numbers() -> None:
    for open in (Environment.spaces, Environment.open):
        with pytest.raises(DataError, match="open_spiel kuhn_poker: speaks text, which networks do not read"):
            open(Environment.model_validate(KUHN))
    with pytest.raises(DataError, match="is no id of an environment"):
        register_text("../guess", lambda: None)  # type: ignore[arg-type,return-value]


def test_open_spiel_draws_chance_from_the_seed_and_sums_what_is_earned() -> None:
    game = environment("open_spiel", "kuhn_poker", actions="numbers").open_text()
    deals = set()
    for seed in range(40):
        first = game.reset(seed)
        assert first == game.reset(seed)
        second = game.step("0")  # pass
        deals.add((first.heard[0].text, second.heard[0].text))
        third = game.step("1")  # bet
        assert (third.seat, third.legal) == (0, ("0", "1"))
        last = game.step("1")  # call: the higher card wins 2
        won = 2.0 if first.heard[0].text > second.heard[0].text[0] else -2.0
        assert last.over and list(last.rewards) == [won, -won]
    assert deals == {(a, f"{b}p") for a in "012" for b in "012" if a != b}


@pytest.mark.parametrize(("shows", "text"), [("auto", "...\n...\n..."), ("information_state", "")])
def test_open_spiel_shows_the_state_that_is_asked_for(shows: str, text: str) -> None:
    game = environment("open_spiel", "tic_tac_toe", shows=shows).open_text()
    turn = game.reset(0)
    assert turn.heard == (Spoken(text),) and turn.legal is not None and turn.legal[0] == "x(0,0)"


def test_gymnasium_lists_legal_actions_in_its_info() -> None:
    for lists, legal in ((False, None), (True, ("a", "b"))):
        game = environment("gymnasium", "test/Echo-v0", lists=lists).open_text()
        turn = game.reset(3)
        assert turn.legal == legal
        assert game.step(turn.heard[0].text).rewards == (1.0,)
        end = game.step("")
        assert (end.over, dict(end.ends), end.rewards) == (True, {0: "terminated"}, (0.0,))


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("text", "a message is '7', which is a int and no text"),
        ("bytes", "a message is a bytes, not Spoken"),
        ("surrogate", "a message holds a lone surrogate"),
        ("nan", "reward is nan"),
        ("rewards", "2 rewards for 1 seats"),
        ("seat", "seat 1 is to move, which is none of 0 to 0"),
        ("legal", "no action is legal"),
        ("ends", "seat 0 is to move, which has ended"),
        ("ending", "a seat ends by 'won', not terminated or truncated"),
        ("open", "the game is over, but seat 0 has not ended"),
        ("nothing", "a turn is a NoneType, not a TextTurn"),
    ],
)
def test_what_no_game_returns_is_named(breaks: str, message: str) -> None:
    game = environment("text", "broken", breaks=breaks).open_text()
    game.reset(0)
    game.step("1")
    with pytest.raises(GameError, match=message):
        game.step("1")
