from pathlib import Path

import numpy as np
import pytest

from genrl_graph.contract import registry
from genrl_graph.errors import DataError
from genrl_graph.nodes.games.environment import Environment, register_aec
from genrl_graph.nodes.games.game import Floats, Spaces

registry.import_file(Path(__file__).parents[2] / "corridors.py")


@pytest.mark.parametrize(
    ("environment", "spaces"),
    [
        ({"id": "CartPole-v1"}, Spaces((4,), 2, 1)),
        ({"id": "FrozenLake-v1"}, Spaces((16,), 4, 1)),
        ({"id": "test/Numbers-v0"}, Spaces((4,), 4, 1)),
        ({"id": "test/MaskedNumbers-v0"}, Spaces((4,), 4, 1)),
        ({"id": "tictactoe_v3", "kind": "pettingzoo"}, Spaces((3, 3, 2), 9, 2)),
        ({"id": "connect_four_v3", "kind": "pettingzoo"}, Spaces((6, 7, 2), 7, 2)),
        ({"id": "leduc_holdem_v4", "kind": "pettingzoo"}, Spaces((36,), 4, 2)),
        ({"id": "chess_v6", "kind": "pettingzoo"}, Spaces((8, 8, 111), 4672, 2)),
        ({"id": "heap", "kind": "pettingzoo", "params": {"leaver": True}}, Spaces((2,), 2, 3)),
    ],
)
def test_spaces_of_an_environment(environment: dict[str, object], spaces: Spaces) -> None:
    assert Environment.model_validate(environment).spaces() == spaces


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"id": "CartPol-v1"}, "gymnasium CartPol-v1: cannot be made"),
        ({"id": "CartPole-v1", "params": {"gravity": 1}}, "cannot be made with params {'gravity': 1}: TypeError"),
        ({"id": "test/Steering-v0"}, r"its actions are Box\(-1.0, 1.0"),
        ({"id": "tictactoe", "kind": "pettingzoo"}, "has no such game"),
        ({"id": "no_game_v1", "kind": "pettingzoo"}, "has no such game"),
        ({"id": "os.path", "kind": "pettingzoo"}, "has no such game"),
    ],
)
def test_an_environment_that_cannot_be_opened_is_named(environment: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Environment.model_validate(environment).spaces()


@pytest.mark.parametrize("id", ["my_module:Maze-v0", "../maze", "a b", "pettingzoo.classic.chess_v6/../x"])
def test_an_id_never_names_code_to_import(id: str) -> None:
    with pytest.raises(ValueError, match="is no id of an environment"):
        Environment(id=id)


def test_an_environment_of_ones_own_needs_an_id() -> None:
    with pytest.raises(DataError, match="is no id"):
        register_aec("my heap", lambda: None)


@pytest.mark.parametrize("id", ["test/Numbers-v0", "test/MaskedNumbers-v0"])
def test_numbers_are_one_hot_and_masks_come_from_the_infos_or_the_observation(id: str) -> None:
    game = Environment(id=id).open()
    turn = game.reset(3)
    assert turn.observation.tolist() == turn.mask.tolist()
    assert turn.observation.sum() == 1
    assert game.step(int(turn.mask.argmax())).rewards == (1.0,)


def test_an_episode_is_a_function_of_the_seed() -> None:
    for environment in (Environment(id="CartPole-v1"), Environment(id="leduc_holdem_v4", kind="pettingzoo")):
        first, other = environment.open(), environment.open()
        other.reset(1)
        assert np.array_equal(first.reset(7).observation, other.reset(7).observation)
        for _ in range(2):
            turns = first.step(1), other.step(1)
            assert np.array_equal(turns[0].observation, turns[1].observation)


def test_agents_that_are_out_of_the_game_are_skipped() -> None:
    game = Environment(id="heap", kind="pettingzoo", params={"leaver": True}).open()
    turn, seats = game.reset(0), []
    while not turn.over:
        seats.append(turn.seat)
        turn = game.step(0)
    assert seats == [0, 1, 2, 0, 2, 0, 2, 0, 2, 0]
    assert {end.finish_reason for end in turn.ends.values()} == {"terminated"}


def test_each_seat_ends_at_its_own_time() -> None:
    game = Environment(id="heap", kind="pettingzoo", params={"leaver": True, "moves": 5}).open()
    for _ in range(2):  # a game that is played again begins anew
        turn, ends = game.reset(0), dict[int, tuple[str, bool, Floats | None]]()
        while not turn.over:
            turn = game.step(0)
            ends |= {seat: (end.finish_reason, turn.over, end.observation) for seat, end in turn.ends.items()}
        assert ends[1] == ("terminated", False, None)  # the game went on without it, and it was not observed
        assert {seat: ends[seat][:2] for seat in (0, 2)} == dict.fromkeys((0, 2), ("truncated", True))
        assert [np.asarray(ends[seat][2]).tolist() for seat in (0, 2)] == [[5.0, 0.0], [5.0, 2.0]]


def test_a_truncated_game_has_a_final_observation_for_each_seat() -> None:
    game = Environment(id="heap", kind="pettingzoo", params={"moves": 2}).open()
    game.reset(0)
    game.step(1)
    turn = game.step(0)
    assert turn.over
    assert {end.finish_reason for end in turn.ends.values()} == {"truncated"}
    assert turn.rewards == (0.5, 0.0, 0.5)
    assert [np.asarray(turn.ends[seat].observation).tolist() for seat in range(3)] == [
        [7.0, 0.0],
        [7.0, 1.0],
        [7.0, 2.0],
    ]
