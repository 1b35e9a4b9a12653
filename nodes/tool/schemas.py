"""Functions as models are told of them, and the public methods of an object as functions."""

import inspect
import json
from collections.abc import Mapping

from genrl_graph.contract.tool import Function
from genrl_graph.contract.tool_chat import ToolSchema
from genrl_graph.errors import DataError
from genrl_graph.messages import first_line

OWN = ("reset", "get_reward")
"""Public methods of an environment of TRL that are no tools."""


def schema_of(name: str, function: Function, *, where: str) -> ToolSchema:
    """Return the schema of a function; raises `DataError` if its docstring or type hints do not say what it takes."""
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
