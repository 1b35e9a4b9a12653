"""Params of an OpenEnv server: where it is, and what of its observations and actions is text."""

import re
from json import dumps
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from jinja2 import TemplateError
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from genrl_graph.contract.exact_numbers import ExactNumbers
from genrl_graph.nodes.endpoint.client import key_variable
from genrl_graph.nodes.templates.rendering import MOST_SOURCE
from genrl_graph.nodes.templates.syntax import parsed, variables

SHOWN = ("observation", "metadata", "reward")
"""The variables of `template`."""
_PATH = re.compile(r"[\w\-]+(\.[\w\-]+)*")


def _server_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is no URL of a server; write one such as http://127.0.0.1:8000")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a password; name the environment variable of a key in api_key_env")
    _ = parts.port  # raises ValueError for one that is none
    return f"{parts.scheme.replace('ws', 'http', 1)}://{parts.netloc}{parts.path}".rstrip("/")


def _path(path: str | None) -> str | None:
    if path is not None and not _PATH.fullmatch(path):
        raise ValueError(
            f"{path!r} is no path of a field; write names with dots between, such as board or metadata.seat"
        )
    return path


def _template(template: str | None) -> str | None:
    if template is None:
        return None
    if len(template) > MOST_SOURCE:
        raise ValueError(f"the template has {len(template)} characters; at most {MOST_SOURCE} are read")
    try:
        unknown = sorted(variables(parsed(template)) - set(SHOWN))
    except (TemplateError, RecursionError) as error:
        raise ValueError(f"is not valid Jinja: {str(error) or 'it is nested too deeply'}") from error
    if unknown:
        raise ValueError(f"the template reads {unknown[0]!r}; it may read {', '.join(SHOWN)}")
    return template


FieldPath = Annotated[str | None, AfterValidator(_path)]


class OpenEnvParams(ExactNumbers):
    """Params of an environment of kind `openenv`.

    A path names a field of the observation by names with dots between them; `metadata.` leads into the metadata that a
    server sends with it. Without `text` and `template` a seat hears the whole observation as JSON. Without `action` its
    moves are whole actions in JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, AfterValidator(_server_url)] = Field(description="base URL of the server")
    text: FieldPath = Field(
        default=None,
        description="path of what the seat to move hears: a text, or in a game of several seats an object of texts by "
        "seat, each of which waits until its seat moves",
    )
    template: Annotated[str | None, AfterValidator(_template)] = Field(
        default=None,
        description="Jinja template of what the seat to move hears, instead of `text`; it sees `observation`, "
        "`metadata` and `reward`",
    )
    action: Annotated[str | None, Field(min_length=1)] = Field(
        default=None, description="field of the action that the text of a move becomes"
    )
    constants: dict[str, Any] = Field(default={}, description="other fields of every action")
    reset: dict[str, Any] = Field(default={}, description="fields of every `reset`, besides its seed")
    legal: FieldPath = Field(default=None, description="path of the list of legal moves; null: the server judges moves")
    seats: int = Field(default=1, ge=1, le=1024, description="number of seats")
    seat: FieldPath = Field(
        default=None, description="path of the number of the seat to move, from 0; for several seats"
    )
    rewards: FieldPath = Field(
        default=None,
        description="path of the rewards of all seats since the last move, as a list or an object by seat; for several "
        "seats, instead of the one reward that OpenEnv has",
    )
    truncated: FieldPath = Field(
        default=None, description="path of whether an episode that is done was cut off; null: none is"
    )
    deterministic: bool = Field(
        default=False, description="whether seed and actions determine all that a server answers"
    )
    errors: Literal["tell", "fail"] = Field(
        default="tell",
        description="what an action leads to that the server refuses or fails on: `tell` tells the seat, which moves "
        "again, and `fail` fails the episode",
    )
    timeout_s: float = Field(
        default=25.0,
        gt=0,
        le=3600,
        description="seconds for which a server is waited for, and in which it must begin an episode or answer a move; "
        "keep twice of it below step_timeout_s of generate.dialogue",
    )
    restarts: int = Field(
        default=2, ge=0, le=100, description="times that an episode begins again whose session is lost"
    )
    api_key_env: Annotated[str | None, AfterValidator(key_variable("OPENENV_"))] = Field(
        default=None,
        description="environment variable, whose name begins with OPENENV_, of the key that is sent as a bearer token",
    )

    @model_validator(mode="after")
    def _conventions(self) -> Self:
        if self.text is not None and self.template is not None:
            raise ValueError("give text or template, not both")
        if self.seats > 1 and (self.seat is None or self.rewards is None):
            raise ValueError(
                f"seats is {self.seats}; name `seat` and `rewards`, the fields of the seat to move and of rewards"
            )
        if self.action is not None and self.action in self.constants:
            raise ValueError(f"constants holds {self.action!r}, which a move becomes")
        return self


def openenv_params(params: dict[str, Any]) -> OpenEnvParams:
    """Return the params of a graph file, checked; raises `ValueError` in one line for the first that is wrong."""
    try:
        return OpenEnvParams.model_validate(params)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        shown = "" if first["type"] == "missing" or not where else f" is {dumps(first['input'], default=str)[:80]}:"
        raise ValueError(f"{where}{shown} {reason}".strip()) from error
