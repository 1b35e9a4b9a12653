"""Functions as models are told of them, and the public methods of an object as functions."""

import inspect
import json
import re
from collections.abc import Mapping

from genrl_graph.contract.tool import Function, Tool
from genrl_graph.contract.tool_chat import ToolSchema
from genrl_graph.errors import DataError
from genrl_graph.messages import first_line, short

OWN = ("reset", "get_reward")
"""Public methods of an environment of TRL that are no tools."""


_NAME = re.compile(r"[\w-]{1,64}")
_UNNAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


def functions_of(tool: Tool) -> Mapping[str, Function]:
    """Return the functions of a tool; raises `DataError` if it gives none, or raises."""
    try:
        functions = tool.functions()
    except DataError:
        raise
    except Exception as error:  # the user's own code, which may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{tool.type_name}: its functions cannot be made: {reason}") from error
    if not functions:
        raise DataError(f"{tool.type_name}: `functions` gives none; a tool has at least one")
    return functions


def schema_of(name: str, function: Function, *, where: str) -> ToolSchema:
    """Return the schema of a function.

    Raises `DataError` if a model cannot call it by its name and the names of its arguments, or if its docstring or type
    hints do not say what it takes.
    """
    if not callable(function):
        raise DataError(f"{where}: the tool {name!r} is {short(function)}, not a function")
    if not _NAME.fullmatch(name):
        advice = "use letters, digits, _ and -, up to 64"
        raise DataError(f"{where}: a model cannot write the name {name!r} of a tool; {advice}")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in _UNNAMED:
            advice = f"a call names each argument; make {parameter} an ordinary one"
            raise DataError(f"{where}: a model cannot call {name!r}: {advice}")
    from transformers.utils.chat_template_utils import (
        DocstringParsingException,
        TypeHintParsingException,
        get_json_schema,
    )

    try:
        schema = get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException, NameError) as error:
        advice = "give it a type for each argument, and a docstring with a line for each under `Args:`"
        raise DataError(f"{where}: the model cannot be told of {name!r}: {first_line(error)}; {advice}") from error
    told: ToolSchema = json.loads(json.dumps({**schema, "function": {**schema["function"], "name": name}}))
    return told


def methods_of(instance: object) -> Mapping[str, Function]:
    """Return the public methods of an object, bound, as TRL finds tools: functions of its class, sorted by name."""
    names = (name for name, _ in inspect.getmembers(type(instance), inspect.isfunction))
    return {name: getattr(instance, name) for name in names if name not in OWN and not name.startswith("_")}
