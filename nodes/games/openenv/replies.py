"""Read what an OpenEnv server answers: observations, rewards and errors, as the params of an environment name them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from typing import Any

from genrl_graph.messages import short
from genrl_graph.nodes.games.game import GameError, read_reward
from genrl_graph.nodes.games.openenv.params import OpenEnvParams
from genrl_graph.nodes.games.openenv.session import preview
from genrl_graph.nodes.games.text_game import MOST_CHARACTERS
from genrl_graph.nodes.templates.rendering import TemplateFailed, render

_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to `reset` or `step`."""

    observation: Mapping[str, Any]
    metadata: Mapping[str, Any]
    reward: float
    done: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that a server reports; the session goes on."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def read_reply(message: Any) -> Reply | Refusal:
    """Return a reply of the protocol; raises `GameError` for any other message."""
    match message:
        case {"type": "observation", "data": {"observation": dict(observation), **rest}}:
            done, metadata = rest.get("done", False), rest.get("metadata") or observation.get("metadata") or {}
            if isinstance(done, bool) and isinstance(metadata, dict):
                return Reply(observation, metadata, _reward(rest.get("reward")), done)
        case {"type": "error", "data": {"message": str(text), **rest}}:
            return Refusal(str(rest.get("code", "ERROR"))[:40], text[:MOST_CHARACTERS])
    shown = preview(dumps(message, ensure_ascii=False))
    raise GameError(f"the server does not speak the protocol of OpenEnv 0.10: {shown}")


def field_of(reply: Reply, path: str) -> Any:
    """Return the value of a path; raises `GameError` if the reply has none."""
    value: Any = {"metadata": reply.metadata, **reply.observation}
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name, _ABSENT)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            value = _ABSENT
        if value is _ABSENT:
            fields = ", ".join(sorted(reply.observation)) or "none"
            raise GameError(f"the observation has no {path!r}; its fields are {short(fields)}")
    return value


def heard(reply: Reply, params: OpenEnvParams, seat: int) -> Mapping[int, str]:
    """Return the new texts by seat."""
    if params.template is not None:
        shown = {"observation": reply.observation, "metadata": reply.metadata, "reward": reply.reward}
        try:
            return {seat: render("prompt", params.template, shown)}
        except TemplateFailed as error:
            raise GameError(f"template: {error}") from error
    if params.text is None:
        return {seat: _as_text(reply.observation)}
    value = field_of(reply, params.text)
    if params.seats > 1 and isinstance(value, dict):
        return {at: _as_text(text) for at, text in _by_seat(value, params, params.text).items() if text is not None}
    return {seat: _as_text(value)}


def seat_of(reply: Reply, params: OpenEnvParams) -> int:
    """Return the seat to move."""
    if params.seat is None:
        return 0
    seat = field_of(reply, params.seat)
    if not isinstance(seat, int) or isinstance(seat, bool):
        raise GameError(f"{params.seat} is {short(seat)}, not the number of a seat")
    return seat


def rewards_of(reply: Reply, params: OpenEnvParams) -> list[float]:
    """Return the rewards of all seats."""
    if params.rewards is None:
        return [reply.reward] + [0.0] * (params.seats - 1)
    value = field_of(reply, params.rewards)
    if isinstance(value, list) and len(value) == params.seats:
        return [_reward(reward) for reward in value]
    if value is not None and not isinstance(value, dict):
        raise GameError(f"{params.rewards} is {short(value)}, not the rewards of {params.seats} seats")
    by_seat = _by_seat(value or {}, params, params.rewards)
    return [_reward(by_seat.get(seat)) for seat in range(params.seats)]


def legal_of(reply: Reply, params: OpenEnvParams) -> Sequence[str] | None:
    """Return the legal moves; None: the server judges moves."""
    value = None if params.legal is None else field_of(reply, params.legal)
    if value is not None and not isinstance(value, list):
        raise GameError(f"{params.legal} is {short(value)}, not a list of moves")
    return None if value is None else [_as_text(move) for move in value]


def is_truncated(reply: Reply, params: OpenEnvParams) -> bool:
    """Return whether an episode that is done was cut off."""
    return params.truncated is not None and field_of(reply, params.truncated) is True


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value, ensure_ascii=False)


def _by_seat(value: Mapping[str, Any], params: OpenEnvParams, path: str) -> dict[int, Any]:
    seats = {str(seat): seat for seat in range(params.seats)}
    if unknown := [key for key in value if key not in seats]:
        raise GameError(f"{path} is by seat, and has {short(unknown[0])}; seats are 0 to {params.seats - 1}")
    return {seats[key]: entry for key, entry in value.items()}


def _reward(value: Any) -> float:
    if value is not None and not isinstance(value, int | float):
        raise GameError(f"reward is {short(value)}, not a number")
    try:
        return 0.0 if value is None else read_reward(value)
    except OverflowError:
        raise GameError(f"reward is {short(value)}, which is too large") from None
