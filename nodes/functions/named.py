"""Params that name a function or class of the user as `module:name`."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from genrl_graph.nodes.functions.allowed import require_allowed
from genrl_graph.nodes.functions.callables import importable_name

_NAME = re.compile(r"(?!.*\.py:)[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


def require_name(name: object, info: ValidationInfo) -> None:
    """Raise `ValueError` for what is no `module:name`, or for one in a graph file that the user has not allowed."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of a function or class; write module:name (a file: --import it, then stem:name)"
        )
    if info.context is not None:  # read from a graph file, which may come from a stranger
        require_allowed(*name.split(":"))


def by_name(function: object) -> object:
    """Return the name of a function or class that can be imported, and anything else as it is."""
    return (importable_name(function) or function) if callable(function) else function


def _nameable(function: object, info: ValidationInfo) -> object:
    if isinstance(function, str):
        require_name(function, info)
    return function


NamedFunction = Annotated[
    str | Callable[..., Any], BeforeValidator(by_name, json_schema_input_type=str), AfterValidator(_nameable)
]
"""A function or class: in Python itself, which is replaced by its name where it can be imported."""
