"""Params of an OpenEnv server: what is wrong with them is a line of the check."""

from typing import Any

import pytest

from genrl_graph.errors import ParamError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.games.text_game import TextSpaces
from genrl_graph.nodes.source.environment import EnvironmentSource

URL = "http://127.0.0.1:9"


def described(**params: Any) -> Environment:
    return EnvironmentSource(environment={"kind": "openenv", "id": "digit", "params": params}).environment


@pytest.mark.parametrize("url", [URL, f"{URL}/", "ws://127.0.0.1:9"])
def test_an_environment_is_described_without_its_server(url: str) -> None:
    environment = described(url=url, seats=2, seat="turn", rewards="paid")
    assert environment.text_spaces() == TextSpaces(2, False)
    assert environment.remote is not None and environment.remote.url == URL


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "params.url Field required"),
        ({"url": "127.0.0.1:8000"}, 'params.url is "127.0.0.1:8000": is no URL of a server; write one such as http'),
        ({"url": "http://a/?key=1"}, "params.url is .*: is no URL of a server"),
        ({"url": "http://me:secret@a"}, "params.url is .*: holds a password; name the environment variable"),
        ({"url": "http://a:99999"}, "params.url is .*: Port out of range"),
        ({"url": URL, "txt": "prompt"}, "params.txt is .*: Extra inputs are not permitted"),
        ({"url": URL, "text": "a..b"}, "params.text is .*: 'a..b' is no path of a field"),
        ({"url": URL, "text": "a", "template": "b"}, "give text or template, not both"),
        ({"url": URL, "template": "{{ board }}"}, "the template reads 'board'; it may read observation, metadata, rew"),
        ({"url": URL, "template": "{{"}, "params.template is .*: is not valid Jinja"),
        ({"url": URL, "seats": 2}, "seats is 2; name `seat` and `rewards`, the fields"),
        ({"url": URL, "seats": True}, "params.seats is true: wants a number"),
        ({"url": URL, "action": "a", "constants": {"a": 1}}, "constants holds 'a', which a move becomes"),
        ({"url": URL, "errors": "ignore"}, "params.errors is \"ignore\": Input should be 'tell' or 'fail'"),
        ({"url": URL, "api_key_env": "HOME"}, "params.api_key_env is .*: 'HOME' does not begin with OPENENV_"),
    ],
)
def test_params_that_no_server_can_have_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        described(**params)
