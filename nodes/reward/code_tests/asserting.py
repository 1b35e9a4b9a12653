"""Tests that are code, in a sandbox of their own: they call functions of a program that runs in another one.

The program's values arrive as plain data; its objects, its patches and its output do not, and it gets copies of the
arguments. Verdicts leave by standard error, which the program does not have: whatever it sends, it can at most name the
rule by which it failed.
"""

import ast
import builtins
import json
import os
from collections.abc import Callable
from typing import Any

from genrl_graph.nodes.reward.code_tests.values import NotData, decode, encode

HUNG_UP = 3
FAILURES = frozenset({"missing", "raised", "exited", "syntax", "no_data", "cpu", "wall", "memory", "output", "killed"})
"""Rules that the program's side may name; anything else that it sends is `no_data`."""
_CHUNK = 2**16


class Ended(BaseException):
    """The program cannot answer this test any more; a test does not catch it by accident."""


class Program:
    """The program at the other end of standard input and output, for one test at a time."""

    def __init__(self, most_reply: int) -> None:
        self._requests, self._replies = os.dup(1), os.dup(0)
        self._most = most_reply
        self._running = False
        self.calls = 0
        self.rule = ""

    def begin(self) -> None:
        """Begin a test: a new process runs the program, which may end it at once."""
        self._send(["begin"])
        self._running, self.calls = True, 0
        (kind, *_) = self._receive()
        self.rule = "" if kind == "ready" else _failure(kind)

    def finish(self) -> None:
        """End the test; its process ends, too."""
        if self._running:
            self._send(["end"])
        while self._running:
            self._receive()

    def function(self, name: str) -> Callable[..., Any]:
        """Return a function that calls the program's function of this name."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self._call(name, arguments, keywords)

        call.__name__ = call.__qualname__ = name
        return call

    def _call(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if not self._running:
            raise self._ended(self.rule)
        self.calls += 1
        try:
            request = ["call", name, encode(arguments), encode(keywords)]
        except NotData as error:
            raise TypeError(f"the test calls {name} with a {error}, which is no data") from error
        self._send(request)
        kind, *values = self._receive()
        if kind == "value" and values:
            try:
                return decode(values[0])
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                raise self._ended("no_data") from error
        if kind == "raised" and len(values) > 1:
            self.rule = "raised"
            raise _exception(*values[:2])
        raise self._ended(_failure(kind))

    def _ended(self, rule: str) -> Ended:
        self.rule = rule
        return Ended(rule)

    def _send(self, message: list[Any]) -> None:
        line = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while line:
                line = line[os.write(self._requests, line) :]
        except BrokenPipeError:
            os._exit(HUNG_UP)

    def _receive(self) -> list[Any]:
        """Return the next message: its kind and its values; one of the end has the reason as its kind."""
        line = bytearray()
        while not line.endswith(b"\n"):
            chunk = os.read(self._replies, _CHUNK)
            if not chunk:
                os._exit(HUNG_UP)
            line += chunk
            if len(line) > self._most:
                os._exit(HUNG_UP)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return ["no_data"]
        if not isinstance(message, list) or not message or not isinstance(message[0], str):
            return ["no_data"]
        if message[0] != "ended":
            return message
        self._running = False
        reason = str(message[-1])
        return ["exited" if reason == "ended" else reason]


def check(setup: str, tests: list[str], entry_point: str, *, most_reply: int) -> None:
    """Run each test against the program, and write `[number, rule]` of each to standard error as soon as it is known.

    `setup` runs before each test. The function `entry_point`, and every name that a test uses and nothing defines, is
    the program's.
    """
    verdicts = os.dup(2)
    program = Program(most_reply)
    nowhere = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for number, test in enumerate(tests):
        program.begin()
        rule = _rule(program, setup, test, entry_point)
        os.write(verdicts, json.dumps([number, rule]).encode() + b"\n")
        program.finish()
    os._exit(0)


def _rule(program: Program, setup: str, test: str, entry_point: str) -> str:
    """Return by which rule a test ends: `passed`, or why not."""
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(setup, namespace)  # the sandbox is made for it
        names = _free_names(test) - set(namespace) - set(dir(builtins))
        namespace |= {name: program.function(name) for name in {*names, *filter(None, [entry_point])}}
        exec(compile(test, "tests.py", "exec"), namespace)
    except BaseException as error:  # a test may raise anything, and so may the program
        return program.rule if program.rule and not isinstance(error, AssertionError) else "wrong"
    if program.rule not in ("", "raised"):  # a test that catches everything
        return program.rule
    return "passed" if program.calls else "uncalled"


def _failure(kind: str) -> str:
    """Return the rule that a message names, if it is one of a failure."""
    return kind if kind in FAILURES else "no_data"


def _free_names(source: str) -> set[str]:
    """Return the names that code reads and does not bind anywhere."""
    names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    return {node.id for node in names} - bound


def _exception(name: object, message: object) -> Exception:
    """Return the exception that the program's function raised, if it is one of Python's own."""
    kind = getattr(builtins, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(str(message))
        except TypeError:  # one that wants more arguments, such as UnicodeDecodeError
            pass
    return RuntimeError(f"{name}: {message}")
