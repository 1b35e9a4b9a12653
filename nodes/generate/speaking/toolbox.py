"""The tools of a seat: tell its policy of them, read its calls, run them, and say what came out."""

import asyncio
import inspect
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from genrl_graph.contract.policy import Completion, TextPolicy
from genrl_graph.contract.resources import Log
from genrl_graph.contract.tool import Function, Tool, ToolBroken, ToolError
from genrl_graph.contract.tool_chat import ToolCall, ToolChat
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.games.game import GameError
from genrl_graph.nodes.generate.prompting.prompts import AskedTask, fill
from genrl_graph.nodes.generate.speaking.tool_formats import TEXT_FORMATS, TextFormat, ToolFormat, one_argument
from genrl_graph.nodes.tool.schemas import functions_of, schema_of

Messages = list[dict[str, str]]
T = TypeVar("T")

SPEAKER = "tool"
"""The role of a result in what a seat hears, followed by the name of the tool."""
PROBE = ({"type": "function", "function": {"name": "probe", "description": "?", "parameters": {"type": "object"}}},)
"""The schema of a tool, to see what a chat template makes of one."""


class Caller(Protocol):
    """Calls a function within the time limit of the environment; raises `GameError` beyond it."""

    def __call__(self, function: Callable[[], T]) -> T:
        """Return what the function returns."""


@dataclass(frozen=True, slots=True)
class ToolRules:
    """The tools of a dialogue, how calls are written, and limits on calls of a turn and characters of a result."""

    tools: tuple[Tool, ...]
    format: ToolFormat
    prompt: str | None
    max_calls: int
    max_characters: int
    where: str


@dataclass(frozen=True, slots=True)
class _Bound:
    """A function, whether its calls may run in threads of their own, and whether it is one of the environment."""

    function: Function
    parallel: bool = False
    own: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a call, as text; `name` is "" where no tool was called, `error` the kind of an error, or ""."""

    name: str
    text: str
    error: str = ""


class Toolbox:
    """The tools of one seat in one episode.

    Raises `ParamError` if two tools have one name, and `DataError` if a tool cannot be made or told of, or the policy's
    chat template takes no tools and `format` is `template`.
    """

    def __init__(self, rules: ToolRules, own: Mapping[str, Function], policy: TextPolicy | None) -> None:
        self._rules, self._bound = rules, dict[str, _Bound]()
        given = [(name, _Bound(f, tool.parallel)) for tool in rules.tools for name, f in functions_of(tool).items()]
        for name, bound in [*given, *((name, _Bound(function, own=True)) for name, function in own.items())]:
            if name in self._bound:
                raise ParamError(f"{rules.where}.tools: two tools are named {name!r}; rename one")
            self._bound[name] = bound
        self._functions = {name: bound.function for name, bound in self._bound.items()}
        self._schemas = [schema_of(name, f, where=rules.where) for name, f in self._functions.items()]
        self.chat = self._own_format(policy) if rules.format in ("auto", "template") else None
        self._text: TextFormat = TEXT_FORMATS["block" if rules.format == "block" else "json"]
        if rules.format == "block":
            for name, function in self._functions.items():
                one_argument(name, function)

    def _own_format(self, policy: TextPolicy | None) -> ToolChat | None:
        if policy is None:
            raise GameError("calls of tools are in the format of a chat template; wire the policy that has it")
        chat = policy.tool_chat(self._schemas)
        if chat is None and self._rules.format == "template":
            raise DataError(f"policy {policy.name!r}: {NO_TEMPLATE}")
        return chat

    def told(self, task: AskedTask) -> str:
        """Return what the system message says of the tools; "" where the chat template does."""
        if self.chat is not None:
            return ""
        template = self._text.prompt if self._rules.prompt is None else self._rules.prompt
        tools = [schema["function"] for schema in self._schemas]
        shown = [{**tool, "parameters": json.dumps(tool["parameters"]["properties"])} for tool in tools]
        return fill(template, task, {"tools": shown}, where=self._rules.where)

    def read(self, prompt_ids: NDArray[np.int32], completion: Completion) -> list[ToolCall]:
        """Return the calls in a completion."""
        if self.chat is not None:
            return self.chat.read(prompt_ids, completion.ids)
        return self._text.read(completion.text, self._functions)

    def run(self, calls: Sequence[ToolCall], caller: Caller) -> "RunningCalls":
        """Start the calls of a turn in order; those beyond the limit are refused."""
        most = self._rules.max_calls
        started = [self._start(call, caller) for call in calls[:most]]
        started += [_done(_refused("", "too_many", f"at most {most} calls a turn")) for call in calls[most:]]
        return RunningCalls(started, self._rules.max_characters)

    def _start(self, call: ToolCall, caller: Caller) -> "Future[Result]":
        if call.problem:
            return _done(_refused("", "malformed", call.problem))
        bound = self._bound.get(call.name)
        if bound is None:
            return _done(_refused("", "unknown", f"no tool {call.name[:80]!r}; there are {', '.join(self._bound)}"))
        try:
            inspect.signature(bound.function).bind(**call.arguments)
        except TypeError as error:
            return _done(_refused(call.name, "arguments", str(error)))
        run = partial(_outcome, call.name, partial(bound.function, **call.arguments), own=bound.own)
        return _threads().submit(run) if bound.parallel else _done(_timed(call.name, run, caller, own=bound.own))


class RunningCalls:
    """The calls of one turn, of which some may still run; `results` waits for them."""

    def __init__(self, calls: "Sequence[Future[Result]]", max_characters: int) -> None:
        self._calls, self._most = calls, max_characters
        self._results: list[Result] | None = None

    def results(self) -> list[Result]:
        """Return the results in the order of the calls, cut to their limit; raises `GameError` for a broken tool."""
        if self._results is None:
            try:
                self._results = [self._cut(call.result()) for call in self._calls]
            except ToolBroken as error:
                raise GameError(str(error)) from error
        return self._results

    def settled(self) -> list[Result]:
        """Return the results as far as there are any: an episode that failed has no others."""
        return self._results or [call.result() for call in self._calls if call.done() and call.exception() is None]

    def heard(self) -> Messages:
        """Return the results as messages that a seat hears."""
        return [{"role": f"{SPEAKER} {result.name}".rstrip(), "content": result.text} for result in self.results()]

    def _cut(self, result: Result) -> Result:
        if len(result.text) <= self._most:
            return result
        note = f"... [{len(result.text)} characters, cut to {self._most}]"
        return Result(result.name, result.text[: self._most] + note, result.error or "oversized")


class TurnOfCalls(Protocol):
    """A turn, with its calls if it has any."""

    calls: RunningCalls | None


def log_calls(log: Log, turns: Sequence[TurnOfCalls]) -> None:
    """Log the calls of all turns, and how many of them were errors, of each kind; nothing if there were none."""
    results = [result for turn in turns if turn.calls is not None for result in turn.calls.settled()]
    if not results:
        return
    errors = Counter(result.error for result in results if result.error)
    log.metric("tool_calls", len(results))
    log.metric("tool_errors", sum(errors.values()))
    for kind, number in sorted(errors.items()):
        log.metric(f"tool_errors/{kind}", number)


NO_TEMPLATE = "its chat template takes no tools, or one that TRL cannot read calls of; set tool_format: json"


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="tool")


def _done(result: Result) -> "Future[Result]":
    future: Future[Result] = Future()
    future.set_result(result)
    return future


def _timed(name: str, run: Callable[[], Result], caller: Caller, *, own: bool) -> Result:
    """Return the outcome of a call; one that does not return is a message, or fails the environment that it is of."""
    try:
        return caller(run)
    except GameError as error:
        if own:
            raise
        return _refused(name, "timeout", str(error))


def _outcome(name: str, run: Callable[[], object], *, own: bool) -> Result:
    """Return what a call gives, as text, or as a message what it raises, exits of the process included.

    A broken tool is raised, and so is what an environment says of itself with `GameError`. Runs in a thread that gets
    no signals.
    """
    try:
        return Result(name, _text(str(_awaited(run()))))
    except ToolBroken:
        raise
    except ToolError as error:
        return Result(name, _text(str(error)), error.kind)
    except BaseException as error:  # a tool may raise anything
        if own and isinstance(error, GameError):
            raise
        return _refused(name, "raised", _reason(error))


def _reason(error: BaseException) -> str:
    """Return what an error says of itself; its type too where that says nothing, or it is an exit."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # its own method raises
        return name
    return text if text and isinstance(error, Exception) else f"{name}: {text}".removesuffix(": ")


def _awaited(value: object) -> object:
    return asyncio.run(_of(value)) if inspect.isawaitable(value) else value


async def _of(value: object) -> object:
    return await value  # type: ignore[misc]


def _refused(name: str, kind: str, problem: str) -> Result:
    """Return an error as TRL tells models of errors."""
    return Result(name, _text(str({"error": problem})), kind)


def _text(text: str) -> str:
    """Return a text that Arrow and tokenizers can hold: without lone surrogates."""
    return text.encode("utf-8", errors="replace").decode()
