"""`tool.function`: functions of your own as tools."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from genrl_graph.contract.graph_values import GraphValues
from genrl_graph.contract.tool import Function, Tool
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.functions.named import NamedFunction
from genrl_graph.nodes.tool.schemas import methods_of, schema_of
from genrl_graph.nodes.worker.worker_main import load_target


class FunctionTool(Tool, name="function"):
    """A function of your own, or the public methods of a class, of which each seat of an episode gets an instance.

    Each needs a type for each argument and a docstring that says what it is, as transformers reads them; async ones are
    awaited. It runs in this process with all your rights, for at most `step_timeout_s` of the dialogue: code of a model
    is for `tool.python`. What it keeps outside of the instance is shared by all episodes.
    """

    function: NamedFunction = Field(
        description="module:name of a function or class; in Python the function or class itself"
    )
    params: GraphValues = Field(default={}, description="keyword arguments of the class")

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
