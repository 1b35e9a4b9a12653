"""Games that an OpenEnv server plays: what a seat hears, does and earns, and what a server may not send."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from openenv_server import LOST, Digit, OpenEnvServer, error, observed

from genrl_graph.errors import DataError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.game import EpisodeLost, GameError
from genrl_graph.nodes.games.openenv.session import MOST_BYTES
from genrl_graph.nodes.games.text_game import CheckedTextGame, Spoken, TextSpaces


def environment(server: OpenEnvServer | str, **params: Any) -> Environment:
    url = server if isinstance(server, str) else server.url
    params = {"url": url, "text": "prompt", "action": "guess", "timeout_s": 20, **params}
    return Environment.model_validate({"kind": "openenv", "id": "digit", "params": params})


def opened(server: OpenEnvServer, **params: Any) -> CheckedTextGame:
    declared = environment(server, **params)
    declared.declare()
    return declared.open_text()


class Said:
    """An environment that answers each request with the next of some replies."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)

    def reset(self, data: Mapping[str, Any]) -> Any:
        return self.replies.pop(0)

    step = reset


def says(*replies: Any) -> Callable[[], Said]:
    return lambda: Said(*replies)


def test_an_episode_is_a_session_of_its_own() -> None:
    with OpenEnvServer() as server:
        game = opened(server, deterministic=True, reset={"level": 2})
        assert game.spaces == TextSpaces(1, True) and server.sessions == 0, "nothing is opened before it is played"
        for seed, secret in ((1, 7), (2, 4)):
            turn = game.reset(seed)
            assert (turn.heard, turn.legal, turn.over) == ((Spoken("?"),), None, False)
            assert game.step("9").heard == (Spoken("<"),)
            turn = game.step(str(secret))
            assert (turn.over, turn.rewards, dict(turn.ends)) == (True, (1.0,), {0: "terminated"})
        assert server.sessions == 2
        assert server.seen[0] == {"type": "reset", "data": {"level": 2, "seed": 1}}
        assert server.seen[1] == {"type": "step", "data": {"guess": "9"}}
        game.reset(3)
        game.release()
        game.reset(4)
        game.close()


SEATS = {"seats": 2, "seat": "turn", "rewards": "metadata.paid", "action": None}


def test_seats_hear_and_earn_by_the_declared_fields() -> None:
    first = observed(turn=1, said={"0": "for 0", "1": "for 1"}, moves=["a", 2])
    second = observed(turn=0, said={"0": "more", "1": None}, moves=["b"])
    last = observed(True, said={}, turn=0, moves=[], late=True)
    replies = [{**first, "metadata": {"paid": None}}, {**second, "metadata": {"paid": [0.5, 0]}}]
    replies.append({**last, "metadata": {"paid": {"1": -1}}})
    with OpenEnvServer(says(*replies)) as server:
        game = opened(server, **SEATS, text="said", legal="moves", truncated="late", constants={"kind": "move"})
        turn = game.reset(0)
        assert (turn.seat, turn.heard, turn.legal, turn.rewards) == (1, (Spoken("for 1"),), ("a", "2"), (0.0, 0.0))
        turn = game.step('{"say": "a"}')
        assert (turn.seat, turn.heard, turn.rewards) == (0, (Spoken("for 0"), Spoken("more")), (0.5, 0.0))
        turn = game.step('{"say": "b"}')
        assert (turn.rewards, dict(turn.ends)) == ((0.0, -1.0), {0: "truncated", 1: "truncated"})
        assert server.seen[1]["data"] == {"say": "a", "kind": "move"}


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"text": None}, '{"prompt": "?", "board": [[1, 2], {"x": "é"}]}'),
        ({"text": "board.0"}, "[1, 2]"),
        ({"text": "board.1.x"}, "é"),
        ({"text": None, "template": "{{ observation.board[0][1] }} {{ reward }} {{ metadata }}"}, "2 0.0 {}"),
    ],
)
def test_what_is_heard_is_a_field_or_a_template_or_all(params: dict[str, Any], text: str) -> None:
    with OpenEnvServer(says(observed(prompt="?", board=[[1, 2], {"x": "é"}]))) as server:
        game = opened(server, **params)
        assert game.reset(0).heard == (Spoken(text),)
        game.close()


def test_a_move_that_the_server_refuses_is_told_or_fails_the_episode() -> None:
    with OpenEnvServer() as server:
        game = opened(server)
        game.reset(1)
        turn = game.step("seven")
        assert turn.heard[0].text.startswith("Error: invalid literal") and turn.rewards == (0.0,) and not turn.over
        assert game.step("7").over, "the session lives on"
        game = opened(server, action=None)
        game.reset(1)
        assert game.step("7").heard[0].text == "Error: an action is a JSON object (it is 7)"
        assert game.step('{"guess": 7}').over
        game = opened(server, errors="fail")
        game.reset(1)
        with pytest.raises(GameError, match="the server refuses the action: EXECUTION_ERROR: invalid literal"):
            game.step("seven")
        game.close()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("hello", "sends no JSON that is read .*: 'hello'"),
        ("[" * 10**5, "sends no JSON that is read .is nested more than 64 deep"),
        (b"\xff\xfe", "sends no JSON"),
        ("[]", r"does not speak the protocol of OpenEnv 0.10: '\[\]'"),
        ('{"type": "observation", "data": {"reward": 1}}', "does not speak the protocol"),
        ('{"type": "result", "data": {"observation": {}}}', "does not speak the protocol"),
        (observed(reward=float("nan"), prompt="?"), "reward is nan"),
        (observed(reward=10**400, prompt="?"), "reward is 1000.*, which is too large"),
        (observed(reward="1", prompt="?"), "reward is '1', not a number"),  # type: ignore[arg-type]
        (observed(board="?"), "the observation has no 'prompt'; its fields are 'board'"),
        (observed(prompt="\ud800"), "a message holds a lone surrogate"),
        (observed(prompt="x" * 2**19), "a message has 524288 characters; at most 262144 are read"),
        ("x" * (MOST_BYTES + 1), "sends what is not read: .* .at most 4194304 bytes"),
        (error("EXECUTION_ERROR", "no such level"), "the server begins no episode: EXECUTION_ERROR: no such level"),
        (error("FACTORY_ERROR", "broken"), "the server begins no session: FACTORY_ERROR: 'broken'"),
        (observed(True, prompt="?"), "the game is over before the first move"),
    ],
)
def test_what_no_server_may_send_is_named(reply: Any, message: str) -> None:
    with OpenEnvServer(says(reply)) as server:
        with pytest.raises(GameError, match=message) as failed:
            opened(server).reset(0)
        assert "\n" not in str(failed.value) and len(str(failed.value)) < 500


@pytest.mark.parametrize(
    ("params", "seen", "message"),
    [
        ({"rewards": "pay"}, {"turn": 0, "pay": [1]}, r"pay is \[1\], not the rewards of 2 seats"),
        ({"rewards": "pay"}, {"turn": 0, "pay": {"2": 1}}, "pay is by seat, and has '2'; seats are 0 to 1"),
        ({"rewards": "pay"}, {"turn": True, "pay": None}, "turn is True, not the number of a seat"),
        ({"rewards": "pay"}, {"turn": 2, "pay": None}, "seat 2 is to move, which is none of 0 to 1"),
        ({"rewards": "pay", "legal": "moves"}, {"turn": 0, "pay": None, "moves": "a"}, "moves is 'a', not a list"),
        ({"rewards": "pay", "legal": "moves"}, {"turn": 0, "pay": None, "moves": []}, "no action is legal"),
    ],
)
def test_what_no_game_of_seats_may_send_is_named(params: dict[str, Any], seen: dict[str, Any], message: str) -> None:
    with (
        OpenEnvServer(says(observed(prompt="?", **seen))) as server,
        pytest.raises(GameError, match=message),
    ):
        opened(server, **{**SEATS, **params}).reset(0)


def test_a_lost_session_is_told_apart_from_a_silent_server() -> None:
    with OpenEnvServer(says(observed(prompt="?"), LOST)) as server:
        game = opened(server, restarts=5)
        game.reset(0)
        with pytest.raises(EpisodeLost, match="the server closed the connection") as lost:
            game.step("1")
        assert lost.value.restarts == 5
        assert game.reset(0).heard == (Spoken("?"),), "it may begin again"
        server.stop()
        with pytest.raises(EpisodeLost):
            game.step("1")
        with pytest.raises(GameError, match=r"no server answers at .* \(Connection refused\)"):
            opened(server, timeout_s=0.3).reset(0)
        server.start()
        game.reset(0)
        game.close()


class Silent(Digit):
    end = threading.Event()

    def step(self, data: Mapping[str, Any]) -> Any:
        self.end.wait(30)
        return super().step(data)


def test_a_server_that_is_silent_or_full_costs_its_seconds() -> None:
    with OpenEnvServer(Silent, most=1) as server:
        game = opened(server, timeout_s=1)
        game.reset(0)
        with pytest.raises(
            GameError, match="CAPACITY_REACHED: '1 of 1 sessions'; lower num_envs, or raise its max_con"
        ):
            opened(server, timeout_s=0.3).reset(0)
        with pytest.raises(GameError, match=r"the server did not answer within 1 s") as silent:
            game.step("1")
        assert not isinstance(silent.value, EpisodeLost)
        game.close()
        Silent.end.set()


def test_a_key_is_sent_to_the_server_and_to_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENENV_KEY", "secret7")
    with OpenEnvServer() as server:
        declared = environment(server, api_key_env="OPENENV_KEY")
        declared.declare()
        declared.prove()
        assert {one["authorization"] for one in server.headers} == {"Bearer secret7"}
    with pytest.raises(DataError) as gone:
        declared.prove()
    assert "secret7" not in str(gone.value)


def test_a_row_of_data_opens_no_server() -> None:
    with pytest.raises(
        DataError, match=r"openenv digit: no source\.environment names http://127.0.0.1:9; a row of data"
    ):
        environment("http://127.0.0.1:9").open_text()


class Together(Digit):
    """Answers when eight sessions wait for an answer."""

    all = threading.Barrier(8)

    def reset(self, data: Mapping[str, Any]) -> Any:
        self.all.wait(60)
        return super().reset(data)

    def step(self, data: Mapping[str, Any]) -> Any:
        self.all.wait(60)
        return super().step(data)


def test_a_server_computes_for_several_games_at_once() -> None:
    with OpenEnvServer(Together) as server:
        games = [opened(server, timeout_s=60) for _ in range(8)]
        for seed, game in enumerate(games):
            game.start(seed)
        turns = [game.reset(seed) for seed, game in enumerate(games)]
        for game in games:
            game.send("7")
        turns = [game.step("7") for game in games]
        assert [turn.over for turn in turns] == [seed == 1 for seed in range(8)]
        assert server.sessions == 8
        for game in games:
            game.close()


def test_an_episode_that_was_asked_for_in_vain_is_waited_for() -> None:
    with OpenEnvServer() as server:
        game = opened(server, restarts=1)
        server.stop()
        game.start(1)
        again = threading.Timer(0.3, server.start)
        again.start()
        assert game.reset(1).heard == (Spoken("?"),)
        again.join()
        game.start(2)
        assert game.reset(2).heard == (Spoken("?"),) and server.sessions == 2
        game.close()
