"""Environments by id: named in a graph, opened from gymnasium or PettingZoo, or registered by a script."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from json import dumps, loads
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from genrl_graph.contract.exact_numbers import ExactNumbers
from genrl_graph.errors import DataError
from genrl_graph.nodes.games.game import Game, Spaces

if TYPE_CHECKING:
    from pettingzoo import AECEnv

Kind = Literal["gymnasium", "pettingzoo"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)?")
_AEC_MODULE = re.compile(r"[a-z][a-z0-9_]*_v[0-9]+")
AEC_FAMILIES = ("classic", "butterfly")
MISSING = "is not installed; pip install 'genrl-graph[games]'"

_registered: dict[str, "Callable[..., AECEnv[Any, Any, Any]]"] = {}


class Environment(ExactNumbers):
    """An environment by id, from Gymnasium's registry, PettingZoo's families or `register_aec`.

    `params` are its keyword arguments. An id is looked up and never imported, so a graph file runs no code. To use an
    environment of your own, call `gymnasium.register` or `register_aec` in a script and pass it with `--import`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, description="name of the environment, such as CartPole-v1 or tictactoe_v3")
    kind: Kind = Field(
        default="gymnasium", description="library that knows the id; pettingzoo also serves those of `register_aec`"
    )
    params: dict[str, Any] = Field(default={}, description="keyword arguments of the environment's constructor")

    @field_validator("id")
    @classmethod
    def _plain_id(cls, id: str) -> str:
        if not _ID.fullmatch(id):
            raise ValueError(f"{id!r} is no id of an environment; import modules with --import and name the id here")
        return id

    @field_validator("params")
    @classmethod
    def _json(cls, params: dict[str, Any]) -> dict[str, Any]:
        try:
            dumps(params)
        except TypeError as error:
            raise ValueError(f"no value of a graph file: {error}") from error
        return params

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    def open(self) -> Game:
        """Open a new copy of the environment; raises `DataError` if it is unknown or unusable here."""
        if self.kind == "gymnasium":
            return _open_gymnasium(self)
        return _open_aec(self)

    def spaces(self) -> Spaces:
        """Return shapes and counts of observations, actions and seats; raises `DataError` like `open`."""
        return _spaces(self.kind, self.id, dumps(self.params, sort_keys=True))


def register_aec(id: str, make: "Callable[..., AECEnv[Any, Any, Any]]") -> None:
    """Register an AEC environment of your own under an id; `make` receives the graph's `params` as keywords.

    Raises `DataError` if the id is not of the allowed form.
    """
    if not _ID.fullmatch(id):
        raise DataError(f"{id!r} is no id of an environment; use letters, digits and _ . -")
    _registered[id] = make
    _spaces.cache_clear()


@lru_cache(maxsize=64)
def _spaces(kind: Kind, id: str, params: str) -> Spaces:
    game = Environment(id=id, kind=kind, params=loads(params)).open()
    game.close()
    return game.spaces


def _open_gymnasium(environment: Environment) -> Game:
    if find_spec("gymnasium") is None:
        raise DataError(f"{environment}: gymnasium {MISSING}")
    import gymnasium

    from genrl_graph.nodes.games.gymnasium_game import GymnasiumGame

    def make(params: Mapping[str, Any]) -> Any:
        return gymnasium.make(environment.id, disable_env_checker=True, **params)

    return GymnasiumGame(_construct(environment, make), where=str(environment))


def _open_aec(environment: Environment) -> Game:
    if find_spec("pettingzoo") is None:
        raise DataError(f"{environment}: pettingzoo {MISSING}")
    from genrl_graph.nodes.games.aec_game import AecGame

    make = _registered.get(environment.id) or _shipped_aec(environment)
    return AecGame(_construct(environment, lambda params: make(**params)), where=str(environment))


def _shipped_aec(environment: Environment) -> "Callable[..., AECEnv[Any, Any, Any]]":
    import importlib

    id = environment.id
    for family in AEC_FAMILIES if _AEC_MODULE.fullmatch(id) else ():
        folder = importlib.import_module(f"pettingzoo.{family}")
        if find_spec(f"{folder.__name__}.{id}") is not None:
            try:
                module = importlib.import_module(f"{folder.__name__}.{id}")
            except ImportError as error:
                raise DataError(f"{environment}: needs {error.name}, which {MISSING}") from error
            make: Callable[..., Any] = module.raw_env
            return make
    raise DataError(f"{environment}: pettingzoo has no such game; name one such as tictactoe_v3, or register_aec it")


def _construct(environment: Environment, make: Callable[[Mapping[str, Any]], Any]) -> Any:
    try:
        return make(environment.params)
    except Exception as error:  # environments are third-party code and raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{environment}: cannot be made with params {environment.params}: {reason}") from error
