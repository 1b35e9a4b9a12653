"""Main program of a worker process, which `supervisor` runs; imports only the standard library.

It reads calls from stdin and writes one answer per call to stdout, each as a frame: four bytes of length
(big-endian), then JSON. The function runs in the main thread, because math-verify sets its time limit with signals.
Its output goes to stderr and its stdin is empty, so the function cannot break the protocol.
"""

import argparse
import importlib
import importlib.util
import inspect
import json
import os
import resource
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

HEADER_BYTES = 4
MAX_MESSAGE_BYTES = 256 * 2**20
MAX_ERROR_CHARACTERS = 2000
OUT_OF_MEMORY = MemoryError.__name__  # reported for numpy's subclasses too


def encode(message: object) -> bytes:
    """Encode a message as a frame; numpy and torch values become numbers and lists.

    Raises TypeError or ValueError if the message is not JSON or is larger than `MAX_MESSAGE_BYTES`.
    """
    try:
        body = json.dumps(message, default=_plain).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply for JSON") from error
    if len(body) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{len(body)} bytes of JSON, at most {MAX_MESSAGE_BYTES} can be sent")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def _plain(value: object) -> object:
    to_list = getattr(value, "tolist", None)
    if callable(to_list):
        return to_list()
    raise TypeError(f"a value of type {type(value).__name__} is not JSON")


def _read(stream: BinaryIO) -> dict[str, object] | None:
    """Read the next message; None when the parent has hung up."""
    header = stream.read(HEADER_BYTES)
    body = stream.read(int.from_bytes(header, "big")) if len(header) == HEADER_BYTES else b""
    if not body:
        return None
    message = json.loads(body)
    assert isinstance(message, dict)
    return message


def load_target(target: str) -> Callable[..., object]:
    """Import the function `module:qualname` or `path/to/file.py:qualname`.

    Raises whatever the import raises, AttributeError for an unknown name, TypeError for something not callable.
    """
    place, _, qualname = target.rpartition(":")
    resolved: object = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    for name in qualname.split("."):
        resolved = getattr(resolved, name)
    if not callable(resolved):
        raise TypeError(f"{qualname} is a {type(resolved).__name__}, not a function")
    return resolved


def call_factory(factory: Callable[..., object], arguments: Mapping[str, object]) -> Callable[..., object]:
    """Return the function that a factory makes; raises TypeError if that is not callable, or the factory's error."""
    function = factory(**arguments)
    if not callable(function):
        raise TypeError(f"the factory gave a {type(function).__name__}, not a function")
    return function


def _load_file(path: Path) -> ModuleType:
    name = f"{path.stem}__target"  # never the name of an installed module, which it would replace
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.parent))  # last: a file beside it must not hide an installed module
    # not through the bytecode cache, which takes a script that was rewritten within a second for unchanged
    exec(compile(Path(path).read_bytes(), str(path), "exec"), module.__dict__)
    return module


def _call(function: Callable[..., object], message: dict[str, object]) -> object:
    arguments, keywords = message["arguments"], message["keywords"]
    assert isinstance(arguments, list) and isinstance(keywords, dict)
    value = function(*arguments, **keywords)
    if not inspect.isawaitable(value):
        return value
    import asyncio  # imported late: it would slow the start of every worker

    return asyncio.run(_awaited(value))


async def _awaited(value: Awaitable[object]) -> object:
    return await value


def _answer(function: Callable[..., object], message: dict[str, object]) -> bytes:
    """Run one call and encode its answer."""
    try:
        value = _call(function, message)
    except Exception as error:  # not swallowed: the parent raises or records it
        return encode(error_message(error))
    try:
        return encode({"value": value})
    except MemoryError as error:
        return encode(error_message(error))
    except (TypeError, ValueError) as error:
        text = f"returned {type(value).__name__}, which cannot be sent back: {error}"
        return encode({"error": {"type": type(error).__name__, "message": text, "where": ""}})


def error_message(error: Exception, context: str = "") -> dict[str, dict[str, str]]:
    """Return the message for an exception: its type, its text, and the last frame of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    where = f"{Path(last.filename).name}:{last.lineno} in {last.name}" if last else ""
    name, text = type(error).__name__, str(error)[:MAX_ERROR_CHARACTERS]
    if isinstance(error, MemoryError):
        name, text = OUT_OF_MEMORY, text or "out of memory"
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        text += "" if limit == resource.RLIM_INFINITY else f", memory_mb is {limit // 2**20}"
    return {"error": {"type": name, "message": context + text, "where": where}}


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Reserve stdin and stdout for the protocol; replace them by an empty stdin and by stderr."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return calls, answers


def main() -> None:
    """Load the target, confirm that to the parent, then answer calls until the parent hangs up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--memory-mb", type=int)
    options = parser.parse_args()
    calls, answers = _take_pipes()
    greeting = _read(calls)
    if greeting is None:
        return
    paths, factory = greeting["sys_path"], greeting["factory"]
    assert isinstance(paths, list) and isinstance(factory, dict | None)
    sys.path[:] = paths  # the parent may have found the module beside its script
    try:
        if options.memory_mb is not None:
            limit = options.memory_mb * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        function = load_target(options.target)
        if factory is not None:
            function = call_factory(function, factory)
    except Exception as error:  # not swallowed: the parent raises it
        _write(answers, encode(error_message(error, f"cannot load {options.target!r}: ")))
        return
    _write(answers, encode({"value": None}))
    while (message := _read(calls)) is not None:
        _write(answers, _answer(function, message))


def _write(stream: BinaryIO, frame: bytes) -> None:
    stream.write(frame)
    stream.flush()


if __name__ == "__main__":
    main()
