"""A class written for `environment_factory` of TRL's trainers, as a game of one seat with its methods as tools."""

import asyncio
import functools
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genrl_graph.contract.tool import Function
from genrl_graph.errors import DataError
from genrl_graph.nodes.games.game import GameError
from genrl_graph.nodes.games.own_random import OwnRandom
from genrl_graph.nodes.games.text_game import Spoken, TextTurn
from genrl_graph.nodes.tool.schemas import methods_of, schema_of
from genrl_graph.nodes.worker.worker_main import load_target

PLACEHOLDER = ({"role": "user", "content": ""},)
"""The prompt that TRL gives an environment which brings its own."""


class TrlGame:
    """An environment in TRL's protocol, unchanged: `reset(**row)`, public methods, `get_reward()` where it has one.

    `id` is module:name of the class, or of a function that makes it. The seat hears the prompt of the row, with what
    `reset` returns after its last message, and calls public methods as tools; its first reply without a call ends the
    episode. Then it earns what `get_reward` returns, and what each of the `rewards` (module:name of functions with
    the signature of TRL, which read `environments`) gives; so it does where the episode is truncated. Instances are
    kept and reset. Python's global random numbers are seeded by the episode. Async methods run on one event loop.
    """

    seats, deterministic = 1, False

    def __init__(self, id: str, *, where: str, rewards: Sequence[str] = (), **params: Any) -> None:
        self._where, self._random = where, OwnRandom()
        self._loop = asyncio.Runner()
        weakref.finalize(self, self._loop.close)
        with self._random.drawn():
            self._env: Any = load_target(id)(**params)
        self._rewards = [load_target(name) for name in rewards]
        self._prompt: Sequence[Mapping[str, str]] = PLACEHOLDER
        self._row: Mapping[str, Any] = {}
        reset = getattr(type(self._env), "reset", None)
        if not callable(reset):
            raise DataError(f"{where}: {type(self._env).__name__} has no method `reset`; TRL's protocol wants it")
        self._check_reset({"prompt": list(PLACEHOLDER)})
        self.functions: Mapping[str, Function] = {
            name: self._callable(method) for name, method in methods_of(self._env).items()
        }
        for name, function in self.functions.items():
            schema_of(name, function, where=where)

    def _check_reset(self, row: Mapping[str, Any]) -> None:
        parameters = list(inspect.signature(self._env.reset).parameters.values())
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return
        try:
            inspect.signature(self._env.reset).bind(**row)
        except TypeError as error:
            advice = "TRL passes all columns of a row; let it take **kwargs"
            raise DataError(f"{self._where}: `reset` of {type(self._env).__name__}: {error}; {advice}") from error

    def reset(self, seed: int) -> TextTurn:
        """Start an episode for which the environment brings the prompt."""
        return self.begin(seed, {"prompt": [dict(message) for message in PLACEHOLDER]})

    def begin(self, seed: int, row: Mapping[str, Any]) -> TextTurn:
        """Start an episode of a row; raises `GameError` if there is nothing to hear in it."""
        self._random.seed(seed)
        self._row, self._prompt = row, _messages(row["prompt"])
        told = self._called(self._env.reset, **row)
        if not isinstance(told, str | None):
            raise GameError(f"reset returned a {type(told).__name__}, not text or None")
        *before, last = [Spoken(message["content"], message["role"]) for message in self._prompt]
        heard = [*before, Spoken(last.text + (told or ""), last.speaker)]
        if not any(message.text for message in heard):
            raise GameError("there is no prompt: neither does the row have one, nor does reset return one")
        return TextTurn(0, heard, (0.0,))

    def step(self, action: str) -> TextTurn:
        """Take the reply without a call for the end of the episode, and pay for it."""
        return TextTurn(0, (), (self._paid(action),), ends={0: "terminated"}, over=True)

    def truncate(self) -> Sequence[float]:
        """Pay for an episode as it stands."""
        return [self._paid("")]

    def close(self) -> None:
        """Close the event loop."""
        self._loop.close()

    def _paid(self, said: str) -> float:
        """Return the reward of the episode; raises `GameError` for None, which is TRL's "cannot judge"."""
        own = [self._called(self._env.get_reward)] if hasattr(type(self._env), "get_reward") else []
        columns: dict[str, Any] = {name: [value] for name, value in self._row.items() if name != "prompt"}
        columns |= {"prompts": [list(self._prompt)], "completions": [[{"role": "assistant", "content": said}]]}
        columns |= {"environments": [self._env], "completion_ids": [[]]}
        given = [self._called(reward, **columns) for reward in self._rewards]
        values = [*own, *(values[0] for values in given)]
        if None in values:
            raise GameError("the reward is None: the environment could not judge the episode")
        return float(sum(values))

    def _called(self, function: Callable[..., Any], /, **arguments: Any) -> Any:
        """Return what a function returns, with the game's random numbers; an async one is awaited."""
        with self._random.drawn():
            value = function(**arguments)
            return self._loop.run(_of(value)) if inspect.isawaitable(value) else value

    def _callable(self, method: Function) -> Function:
        """Return a method that runs with the game's random numbers, and says of itself what the method says."""

        @functools.wraps(method)
        def call(**arguments: Any) -> Any:
            return self._called(method, **arguments)

        return call


def _messages(prompt: object) -> Sequence[Mapping[str, str]]:
    """Return the chat of a row's prompt, which may be text."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, Sequence) and prompt:
        return prompt
    raise GameError(f"the prompt of the row is {str(prompt)[:40]!r}, neither text nor a chat")


async def _of(value: Any) -> Any:
    return await value
