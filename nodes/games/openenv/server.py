"""Prove, before a run begins, that a URL is an OpenEnv server that plays what the params of an environment say."""

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from genrl_graph.errors import DataError
from genrl_graph.messages import short
from genrl_graph.nodes.games.game import GameError
from genrl_graph.nodes.games.openenv.game import OpenEnvGame
from genrl_graph.nodes.games.openenv.params import OpenEnvParams
from genrl_graph.nodes.games.openenv.session import headers, preview, require_websockets
from genrl_graph.nodes.games.text_game import CheckedTextGame
from genrl_graph.store.strict_json import bounded_json

MOST_SCHEMA_BYTES = 2**20
PLAIN = {"Accept-Encoding": "identity"}
SCALARS = frozenset({"string", "integer", "number", "boolean"})
"""Types of fields that a server makes of a text."""


def prove_server(params: OpenEnvParams, *, where: str) -> None:
    """Compare the server's schema of actions with the params, and begin an episode.

    Raises `DataError` for a server that is not there, or is no OpenEnv server, or whose fields are others.
    """
    require_websockets(where)
    if problem := action_problem(_action_schema(params, where), params):
        raise DataError(f"{where}: {problem}")
    game = CheckedTextGame(OpenEnvGame(params, where=where, waits=False))
    try:
        game.reset(0)
    except GameError as error:
        raise DataError(f"{where}: an episode cannot begin at {params.url}: {error}") from error
    finally:
        game.close()


def action_problem(schema: Mapping[str, Any], params: OpenEnvParams) -> str:
    """Return why moves cannot become actions of a JSON schema, "" if they can."""
    fields = schema.get("properties")
    fields = fields if isinstance(fields, dict) else {}
    named = [name for name in (params.action, *params.constants) if name is not None]
    if fields and (unknown := [name for name in named if name not in fields]):
        known = preview(", ".join(sorted(fields)))
        return f"the server's actions have no field {unknown[0]!r}; their fields are {known}"
    if params.action is None:
        return ""
    types = _types(fields.get(params.action, {})) - {"null"}
    if types and not types & SCALARS:
        wanted = preview(", ".join(sorted(types)))
        return f"the server's field {params.action!r} is of type {wanted}, no text; leave out `action`: moves are JSON"
    required = schema.get("required")
    missing = [name for name in required if name not in named] if isinstance(required, list) else []
    return f"the server's actions need {short(missing[0])}, too; give it in constants" if missing else ""


def _types(field: Any) -> set[str]:
    """Return the types of a field, also of a union; a type that is not said may be any."""
    if not isinstance(field, dict):
        return set()
    unions = [field[name] for name in ("anyOf", "oneOf") if isinstance(field.get(name), list)]
    either = [_types(one) for union in unions for one in union]
    if either:
        return set().union(*either) if all(either) else set()
    types = field.get("type", [])
    return {str(one) for one in (types if isinstance(types, list) else [types])}


def _action_schema(params: OpenEnvParams, where: str) -> Mapping[str, Any]:
    """Return the server's JSON schema of actions."""
    url = f"{params.url}/schema"
    status, content = _get(url, params, where)
    if status != 200:
        phrase = HTTPStatus(status).phrase if status in list(HTTPStatus) else ""
        raise DataError(
            f"{where}: {url} answers {f'{status} {phrase}'.strip()}: it is no OpenEnv server, or too old a one; "
            "correct params.url, or update the server"
        )
    try:
        match bounded_json(content):
            case {"action": dict(action), "observation": dict()}:
                return action
    except ValueError:
        pass
    what = f"gives no schemas of actions and observations, but {preview(content)}"
    raise DataError(f"{where}: {url} {what}: it is no OpenEnv server; correct params.url")


def _get(url: str, params: OpenEnvParams, where: str) -> tuple[int, bytes]:
    """Return status and body of a page of the server, within limits."""
    import httpx2

    content, until = bytearray(), time.monotonic() + params.timeout_s
    try:
        with (
            httpx2.Client(headers=headers(params) | PLAIN, timeout=params.timeout_s, trust_env=False) as client,
            client.stream("GET", url) as response,
        ):
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > MOST_SCHEMA_BYTES or time.monotonic() > until:
                    most = f"{MOST_SCHEMA_BYTES} bytes in {params.timeout_s:g} s"
                    raise DataError(f"{where}: {url} gives more than {most}; correct params.url")
            return response.status_code, bytes(content)
    except httpx2.HTTPError as error:
        reason = preview(error) if str(error) else type(error).__name__
        raise DataError(
            f"{where}: no server answers at {params.url} ({reason}); start it, or correct params.url"
        ) from error
