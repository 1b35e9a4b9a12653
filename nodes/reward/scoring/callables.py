"""Functions and their names: what name leads back to one, and how another process finds it."""

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
    """`module:qualname` if that leads back to this very function; None for lambdas, closures and notebook cells."""
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not qualname or module == "__main__":
        return None
    found: object = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return f"{module}:{qualname}" if found is function else None


def worker_target(name: str) -> str:
    """How another process finds `module:qualname`: by that name, or by its file where that lies outside the path."""
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
    """The function's value; an async one runs to its end in a loop of its own, also under a notebook's."""
    value = function(**keywords)
    if not inspect.isawaitable(value):
        return value
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, _awaited(value)).result()


async def _awaited(value: Awaitable[object]) -> object:
    return await value
