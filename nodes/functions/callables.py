"""Names of functions: find an importable name, resolve it in another process, call sync and async functions."""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


def importable_name(function: Callable[..., Any]) -> str | None:
    """Return `module:qualname` if that name resolves to this function; None for lambdas, closures, notebook cells."""
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not qualname or module == "__main__":
        return None
    resolved: object = sys.modules.get(module)
    for name in qualname.split("."):
        resolved = getattr(resolved, name, None)
    return f"{module}:{qualname}" if resolved is function else None


def worker_target(name: str) -> str:
    """Return a target that another process can load: the name itself, or `file:qualname` if it is not on the path."""
    module_name, _, qualname = name.partition(":")
    module = sys.modules.get(module_name)
    file = getattr(module, "__file__", None)
    if module is None or file is None or Path(file).suffix != ".py" or _on_path(module_name, module):
        return name
    return f"{file}:{qualname}"


def _on_path(name: str, module: ModuleType) -> bool:
    places, spec = None, None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), places)
        if spec is None:
            return False
        places = spec.submodule_search_locations
    return spec is not None and spec.origin == module.__file__


def call_here(function: Callable[..., Any], keywords: Mapping[str, Any]) -> object:
    """Call a function; an async one runs in a new event loop in a thread, so this also works inside a notebook."""
    value = function(**keywords)
    if not inspect.isawaitable(value):
        return value
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, _awaited(value)).result()


async def _awaited(value: Awaitable[object]) -> object:
    return await value
