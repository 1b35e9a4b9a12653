"""The proof of a server before round 0."""

import json
import socket
from collections.abc import Mapping
from typing import Any

import pytest
from openenv_server import Digit, OpenEnvServer, observed

from genrl_graph.errors import DataError
from genrl_graph.nodes.games.openenv.params import openenv_params
from genrl_graph.nodes.games.openenv.server import action_problem
from genrl_graph.nodes.source.environment import EnvironmentSource


def source(server: OpenEnvServer | str, **params: Any) -> EnvironmentSource:
    url = server if isinstance(server, str) else server.url
    params = {"url": url, "text": "prompt", "action": "guess", "timeout_s": 20, **params}
    return EnvironmentSource(environment={"kind": "openenv", "id": "digit", "params": params})


def test_a_server_that_plays_what_is_declared_is_proven_and_left() -> None:
    with OpenEnvServer() as server:
        source(server).prepare()
        assert [message["type"] for message in server.seen] == ["reset"]


def test_a_server_that_is_not_there_is_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    with pytest.raises(DataError, match=rf"openenv digit: no server answers at {url} \(.*refused.*\); start it, or"):
        source(url).prepare()


class Old(Digit):
    """A server that sends observations as they are."""

    def reset(self, data: Mapping[str, Any]) -> Any:
        return json.dumps({"prompt": "?", "done": False})


@pytest.mark.parametrize(
    ("make", "faults", "message"),
    [
        (Digit, {"schema": None}, "/schema answers 404 Not Found: it is no OpenEnv server, or too old a one"),
        (Digit, {"schema": "<html>"}, "/schema gives no schemas of actions and observations, but '<html>'"),
        (Digit, {"schema": "[1]"}, "gives no schemas"),
        (Digit, {"schema": "x" * 2**21}, "/schema gives more than 1048576 bytes in 20 s"),
        (Digit, {"pages": {"/ws": 404}}, "an episode cannot begin at .*/ws answers 404, no WebSocket"),
        (Digit, {"pages": {"/ws": 503}}, "/ws answers 503, no WebSocket"),
        (Old, {}, "an episode cannot begin at .*: the server does not speak the protocol of OpenEnv 0.10"),
        (Digit, {"most": 0}, "CAPACITY_REACHED"),
    ],
)
def test_what_is_no_openenv_server_is_a_line(make: Any, faults: dict[str, Any], message: str) -> None:
    with OpenEnvServer(make, **faults) as server, pytest.raises(DataError, match=message) as refused:
        source(server).prepare()
    assert "\n" not in str(refused.value)


def test_a_field_that_no_observation_has_is_a_line() -> None:
    with (
        OpenEnvServer() as server,
        pytest.raises(DataError, match="the observation has no 'board'; its fields are 'pro"),
    ):
        source(server, text="board").prepare()
    with (
        OpenEnvServer() as server,
        pytest.raises(DataError, match=r"actions have no field 'move'; their fields are 'guess"),
    ):
        source(server, action="move").prepare()


FIELDS = {"properties": {"text": {"type": "string"}, "cells": {"type": "array"}, "kind": {"enum": ["a"]}}}


@pytest.mark.parametrize(
    ("schema", "params", "problem"),
    [
        (FIELDS, {"action": "text"}, ""),
        (FIELDS, {"action": "kind"}, ""),
        (FIELDS, {}, ""),
        ({}, {"action": "text"}, ""),
        (FIELDS, {"action": "cells"}, "the server's field 'cells' is of type 'array', no text; leave out `action`"),
        (FIELDS, {"action": "text", "constants": {"kin": "a"}}, "the server's actions have no field 'kin'"),
        ({**FIELDS, "required": ["text", "kind"]}, {"action": "text"}, "the server's actions need 'kind', too"),
        ({**FIELDS, "required": ["text", "kind"]}, {"action": "text", "constants": {"kind": "a"}}, ""),
        ({"properties": {"text": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}, {"action": "text"}, ""),
        (
            {"properties": {"text": {"anyOf": [{"type": "object"}, {"type": "null"}]}}},
            {"action": "text"},
            "'text' is of type 'object'",
        ),
        ({"properties": 7, "required": 7}, {"action": "text"}, ""),
        ({"properties": {"text": {"anyOf": 7, "type": ["array"]}}}, {"action": "text"}, "is of type 'array'"),
    ],
)
def test_moves_are_compared_with_the_schema_of_actions(schema: Any, params: dict[str, Any], problem: str) -> None:
    said = action_problem(schema, openenv_params({"url": "http://127.0.0.1:9", **params}))
    assert said.startswith(problem) if problem.startswith("the") else problem in said
    assert bool(said) == bool(problem)


def test_a_server_may_say_which_moves_are_legal() -> None:
    class Lists(Digit):
        def reset(self, data: Mapping[str, Any]) -> Any:
            return observed(prompt="?", legal=[1, 2])

    with OpenEnvServer(Lists) as server:
        source(server, legal="legal").prepare()
