"""Environments by id: named in a graph, opened from the library that has them, or registered by a script."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from json import dumps, loads
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from genrl_graph.contract.exact_numbers import ExactNumbers
from genrl_graph.contract.graph_values import GraphValues
from genrl_graph.errors import DataError
from genrl_graph.messages import did_you_mean
from genrl_graph.nodes.functions.named import require_name
from genrl_graph.nodes.games.game import Game, GameError, Spaces
from genrl_graph.nodes.games.openenv.params import OpenEnvParams, openenv_params
from genrl_graph.nodes.games.text_game import CheckedTextGame, TextGame, TextSpaces
from genrl_graph.nodes.games.texts.arithmetic import Arithmetic
from genrl_graph.nodes.games.texts.guess_number import GuessNumber
from genrl_graph.nodes.games.texts.negotiation import Negotiation
from genrl_graph.nodes.games.texts.question import Question
from genrl_graph.nodes.games.texts.stand_in import StandIn

if TYPE_CHECKING:
    from pettingzoo import AECEnv

    from genrl_graph.nodes.games.open_spiel_game import OpenSpielGame

Kind = Literal["gymnasium", "pettingzoo", "open_spiel", "textarena", "openenv", "text", "trl"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)?")
_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*")
_AEC_MODULE = re.compile(r"[a-z][a-z0-9_]*_v[0-9]+")
AEC_FAMILIES = ("classic", "butterfly")
MISSING = "is not installed; pip install 'genrl-graph[games]'"

_registered: dict[str, "Callable[..., AECEnv[Any, Any, Any]]"] = {}
_registered_text: dict[str, Callable[..., TextGame]] = {
    "arithmetic": Arithmetic,
    "guess_number": GuessNumber,
    "negotiation": Negotiation,
    "question": Question,
    "stand_in": StandIn,
}
_declared_servers: set[str] = set()


class Environment(ExactNumbers):
    """An environment by id, from Gymnasium, PettingZoo, OpenSpiel, TextArena, `register_aec` or `register_text`.

    `params` are its keyword arguments; those of OpenSpiel may also have `actions` (names or numbers) and `shows` (auto,
    observation or information_state), those of TextArena `players`, those of `trl` `rewards` (names of reward functions
    that read `environments`). An id is looked up and never imported, so a graph file runs no code; that of `trl` is
    module:name of a class written for TRL's `environment_factory`, in a module that `--import` allows, and that of
    `openenv` a name that you give to the server of `OpenEnvParams`. To use an environment of your own, call
    `gymnasium.register`, `register_aec` or `register_text` in a script and pass it with `--import`. Games of OpenSpiel,
    TextArena and OpenEnv, own ones of `register_text`, classes of `trl` and Gymnasium's with `Text` spaces speak text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(
        min_length=1,
        description="name of the environment, such as CartPole-v1, tictactoe_v3 or kuhn_poker; of trl module:name",
    )
    kind: Kind = Field(
        default="gymnasium",
        description="library that knows the id; pettingzoo also serves those of `register_aec`, openenv is a server at "
        "`params.url`, and text is for arithmetic, guess_number, negotiation, question and those of `register_text`",
    )
    params: GraphValues = Field(default={}, description="keyword arguments of the environment's constructor")

    @field_validator("id")
    @classmethod
    def _plain_id(cls, id: str) -> str:
        if not _ID.fullmatch(id) and not _CLASS.fullmatch(id):
            raise ValueError(f"{id!r} is no id of an environment; import modules with --import and name the id here")
        return id

    @model_validator(mode="after")
    def _server(self) -> Self:
        """Refuse params that no server can have."""
        if self.kind == "openenv":
            try:
                openenv_params(self.params)
            except ValueError as error:
                raise ValueError(f"params.{error}") from error
        return self

    @model_validator(mode="after")
    def _allowed(self, info: ValidationInfo) -> Self:
        """Refuse code that a graph file names and the user has not allowed."""
        names = [self.id, *self.params.get("rewards", ())] if self.kind == "trl" else []
        for name in names:
            require_name(name, info)
        if self.kind != "trl" and ":" in self.id:
            raise ValueError(f"{self.id!r} is no id of an environment of {self.kind}; module:name is for kind trl")
        return self

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def remote(self) -> OpenEnvParams | None:
        """The params of the server that plays this environment; None for one of this machine."""
        return openenv_params(self.params) if self.kind == "openenv" else None

    def declare(self) -> None:
        """Let this environment be played: a row of data may name an environment, but no server."""
        if server := self.remote:
            _declared_servers.add(server.url)

    def prove(self) -> None:
        """Raise `DataError` if it cannot be opened, or its server does not play it."""
        self.describe()
        if server := self.remote:
            from genrl_graph.nodes.games.openenv.server import prove_server

            prove_server(server, where=str(self))

    def open(self) -> Game:
        """Open a new copy for networks; raises `DataError` if it is unknown, unusable here, or speaks text."""
        game = self._open()
        if isinstance(game, CheckedTextGame):
            raise DataError(f"{self}: speaks text, which networks do not read; play it with generate.dialogue")
        return game

    def open_text(self) -> CheckedTextGame:
        """Open a new copy for language models; raises `DataError` if it is unknown, unusable here, or has numbers."""
        game = self._open()
        if not isinstance(game, CheckedTextGame):
            raise DataError(f"{self}: has {game.spaces}, not text; play it with generate.play")
        return game

    def prove_perfect_play(self) -> None:
        """Raise `DataError` unless this can be opened, speaks text, and perfect play is known in it."""
        game = self.open_text()
        try:
            if game.remote:
                raise DataError("perfect play at a server is not known; remove the opponent `perfect`")
            game.reset(0)
            game.best_moves()
        except (DataError, GameError) as error:
            raise DataError(f"{self}: {error}") from error
        finally:
            game.close()

    def open_spiel(self) -> "OpenSpielGame":
        """Open the game of OpenSpiel that this names; raises `DataError` for an environment of another library."""
        if self.kind != "open_spiel":
            raise DataError(f"{self}: has no game tree; name a game of open_spiel")
        return _open_spiel_game(self)

    def describe(self) -> Spaces | TextSpaces:
        """Return what is known of the environment before it is played; raises `DataError` if it cannot be opened."""
        return _described(self.kind, self.id, dumps(self.params, sort_keys=True))

    def spaces(self) -> Spaces:
        """Return shapes and counts of observations, actions and seats; raises `DataError` like `open`."""
        described = self.describe()
        if isinstance(described, TextSpaces):
            raise DataError(f"{self}: speaks text, which networks do not read; play it with generate.dialogue")
        return described

    def text_spaces(self) -> TextSpaces:
        """Return the seats, and whether it is deterministic; raises `DataError` like `open_text`."""
        described = self.describe()
        if not isinstance(described, TextSpaces):
            raise DataError(f"{self}: has {described}, not text; play it with generate.play")
        return described

    def _open(self) -> Game | CheckedTextGame:
        openers: dict[Kind, Callable[[Environment], Game | CheckedTextGame]] = {
            "gymnasium": _open_gymnasium,
            "pettingzoo": _open_aec,
            "open_spiel": _open_open_spiel,
            "textarena": _open_textarena,
            "openenv": _open_openenv,
            "text": _open_registered_text,
            "trl": _open_trl,
        }
        return openers[self.kind](self)


def register_aec(id: str, make: "Callable[..., AECEnv[Any, Any, Any]]") -> None:
    """Register an AEC environment of your own under an id; `make` receives the graph's `params` as keywords.

    Raises `DataError` if the id is not of the allowed form.
    """
    _registered[_checked_id(id)] = make
    _described.cache_clear()


def register_text(id: str, make: Callable[..., TextGame]) -> None:
    """Register a game in text of your own under an id; `make` receives the graph's `params` as keywords.

    Raises `DataError` if the id is not of the allowed form.
    """
    _registered_text[_checked_id(id)] = make
    _described.cache_clear()


def _checked_id(id: str) -> str:
    if not _ID.fullmatch(id):
        raise DataError(f"{id!r} is no id of an environment; use letters, digits and _ . -")
    return id


@lru_cache(maxsize=64)
def _described(kind: Kind, id: str, params: str) -> Spaces | TextSpaces:
    game = Environment(id=id, kind=kind, params=loads(params))._open()
    game.close()
    return game.spaces


def _open_gymnasium(environment: Environment) -> Game | CheckedTextGame:
    if find_spec("gymnasium") is None:
        raise DataError(f"{environment}: gymnasium {MISSING}")
    import gymnasium

    from genrl_graph.nodes.games.gymnasium_game import GymnasiumGame
    from genrl_graph.nodes.games.gymnasium_text_game import GymnasiumTextGame, speaks_text

    def make(params: Mapping[str, Any]) -> Any:
        return gymnasium.make(environment.id, disable_env_checker=True, **params)

    env = _construct(environment, make)
    if speaks_text(env):
        return CheckedTextGame(GymnasiumTextGame(env))
    return GymnasiumGame(env, where=str(environment))


def _open_open_spiel(environment: Environment) -> CheckedTextGame:
    return CheckedTextGame(_open_spiel_game(environment))


def _open_spiel_game(environment: Environment) -> "OpenSpielGame":
    if find_spec("pyspiel") is None:
        raise DataError(f"{environment}: open_spiel {MISSING}")
    import pyspiel

    from genrl_graph.nodes.games.open_spiel_game import OpenSpielGame

    if environment.id not in pyspiel.registered_names():
        hint = did_you_mean(environment.id, pyspiel.registered_names())
        raise DataError(f"{environment}: open_spiel has no such game{hint or '; name one such as kuhn_poker'}")
    ours = {name: value for name, value in environment.params.items() if name in ("actions", "shows")}
    theirs = {name: value for name, value in environment.params.items() if name not in ours}
    game = _construct(environment, lambda _: pyspiel.load_game(environment.id, theirs))
    return OpenSpielGame(game, where=str(environment), **ours)


def _open_textarena(environment: Environment) -> CheckedTextGame:
    if find_spec("textarena") is None:
        raise DataError(f"{environment}: textarena is not installed; pip install 'genrl-graph[textarena]'")
    from genrl_graph.nodes.games.textarena_game import TextArenaGame

    def make(params: Mapping[str, Any]) -> TextArenaGame:
        return TextArenaGame(environment.id, where=str(environment), **params)

    return CheckedTextGame(cast(TextGame, _construct(environment, make)))


def _open_openenv(environment: Environment) -> CheckedTextGame:
    from genrl_graph.nodes.games.openenv.game import OpenEnvGame

    params = openenv_params(environment.params)
    if params.url not in _declared_servers:
        raise DataError(f"{environment}: no source.environment names {params.url}; a row of data opens no server")
    return CheckedTextGame(OpenEnvGame(params, where=str(environment)))


def _open_registered_text(environment: Environment) -> CheckedTextGame:
    make = _registered_text.get(environment.id)
    if make is None:
        hint = did_you_mean(environment.id, _registered_text)
        advice = hint or "; register_text it in a script, and pass the script with --import"
        raise DataError(f"{environment}: no script has registered such a game{advice}")
    return CheckedTextGame(cast(TextGame, _construct(environment, lambda params: make(**params))))


def _open_trl(environment: Environment) -> CheckedTextGame:
    from genrl_graph.nodes.games.trl_game import TrlGame

    def make(params: Mapping[str, Any]) -> TrlGame:
        return TrlGame(environment.id, where=str(environment), **params)

    return CheckedTextGame(_construct(environment, make))


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
    except DataError:
        raise
    except Exception as error:  # environments are third-party code and raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{environment}: cannot be made with params {environment.params}: {reason}") from error
