"""`tool.function`: functions of your own as tools."""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from genrl_graph.contract.tool import Function, Tool
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.reward.scoring.allowed import require_allowed
from genrl_graph.nodes.reward.scoring.callables import importable_name
from genrl_graph.nodes.tool.schemas import methods_of, schema_of
from genrl_graph.nodes.worker.worker_main import load_target

_NAME = re.compile(r"(?!.*\.py:)[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


class FunctionTool(Tool, name="function"):
    """A function of your own, or the public methods of a class, of which each seat of an episode gets an instance.

    Each needs a type for each argument and a docstring that says what it is, as transformers reads them; async ones are
    awaited. It runs in this process with all your rights, for at most `step_timeout_s` of the dialogue: code of a model
    is for `tool.python`. What it keeps outside of the instance is shared by all episodes.
    """

    function: str | Callable[..., Any] = Field(
        description="module:name of a function or class; in Python the function or class itself"
    )
    params: dict[str, Any] = Field(default={}, description="keyword arguments of the class")

    @field_validator("function", mode="before", json_schema_input_type=str)
    @classmethod
    def _by_name(cls, function: object) -> object:
        return (importable_name(function) or function) if callable(function) else function

    @field_validator("function")
    @classmethod
    def _nameable(cls, function: object, info: ValidationInfo) -> object:
        if isinstance(function, str):
            if not _NAME.fullmatch(function):
                raise ValueError(
                    f"{function!r} is no function name; write module:name (a file: --import it, then stem:name)"
                )
            if info.context is not None:  # read from a graph file, which may come from a stranger
                require_allowed(*function.split(":"))
        return function

    @field_validator("params")
    @classmethod
    def _json(cls, params: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(params)
        except (TypeError, ValueError) as error:
            raise ValueError(f"no value of a graph file: {error}") from error
        return params

    def plain_params(self) -> dict[str, Any]:
        """Return the params as YAML writes them; raises `ParamError` for a function without an importable name."""
        if not isinstance(self.function, str):
            name = getattr(self.function, "__qualname__", repr(self.function))
            problem = f"{self.type_name}.function: {name} has no importable name"
            raise ParamError(f"{problem}; define it in a module that the script imports to write the graph to a file")
        return super().plain_params()

    def prepare(self) -> None:
        """Load the function and read what it takes; raises `DataError` if that fails."""
        functions = self.functions()
        if not functions:
            raise DataError(f"{self.type_name}: {self.function} has no public method; give it one, or name a function")
        for name, function in functions.items():
            schema_of(name, function, where=self.type_name)

    def functions(self) -> Mapping[str, Function]:
        """Return the function under its name, or the methods of a new instance; raises `DataError` if that fails."""
        try:
            target = load_target(self.function) if isinstance(self.function, str) else self.function
            if not inspect.isclass(target):
                return {str(getattr(target, "__name__", type(target).__name__)): target}
            return methods_of(target(**self.params))
        except Exception as error:  # the user's own code, which may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError(f"{self.type_name}: {self.function} cannot be made: {reason}") from error
