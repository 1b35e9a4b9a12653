"""Calls of tools in text: conventions for chat templates that have none of their own."""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from genrl_graph.contract.tool import Function
from genrl_graph.contract.tool_chat import ToolCall
from genrl_graph.errors import DataError, StoreError
from genrl_graph.store.strict_json import parse_json

ToolFormat = Annotated[
    Literal["auto", "template", "json", "block"],
    Field(
        description="how calls are written: as the chat template has it (template), JSON in <tool_call> tags (json), "
        "or as a code block with the name of a tool, whose text is the one argument (block); auto: as the chat "
        "template has it, or else json"
    ),
]

_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_BLOCK = re.compile(r"```([\w-]+)[^\S\n]*\n(.*?)(?:```|\Z)", re.DOTALL)

JSON_PROMPT = """\
You can call these tools:
{% for tool in tools %}
{{ tool.name }}: {{ tool.description }} Arguments: {{ tool.parameters }}
{% endfor %}
To call a tool, write <tool_call>{"name": "...", "arguments": {...}}</tool_call> and nothing else.
"""
BLOCK_PROMPT = """\
You can call these tools, each with a code block:
{% for tool in tools %}
```{{ tool.name }}
...
```
{{ tool.description }}
{% endfor %}
"""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """A convention: what the model is told by default, and how calls of these functions are read from a completion."""

    prompt: str
    read: Callable[[str, Mapping[str, Function]], list[ToolCall]]


def _tagged_calls(text: str, functions: Mapping[str, Function]) -> list[ToolCall]:
    """Return the calls in <tool_call> tags; each tag holds one call, or a list of them."""
    return [call for written in _TAGGED.findall(text) for call in _json_calls(written)]


def _json_calls(text: str) -> list[ToolCall]:
    try:
        value = parse_json(text, "a call")
    except (StoreError, RecursionError):
        return [ToolCall(problem="the call is no JSON")]
    if value == []:
        return [ToolCall(problem="the list holds no call")]
    return [_json_call(one) for one in (value if isinstance(value, list) else [value])]


def _json_call(value: object) -> ToolCall:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return ToolCall(problem='a call is {"name": "...", "arguments": {...}}')
    arguments = value.get("arguments") or {}
    if isinstance(arguments, str):  # as in OpenAI's API
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        return ToolCall(problem="the arguments of a call are an object")
    return ToolCall(value["name"], arguments)


def _block_calls(text: str, functions: Mapping[str, Function]) -> list[ToolCall]:
    """Return the code blocks that have the name of a tool; others are text."""
    blocks = [(name, body) for name, body in _BLOCK.findall(text) if name in functions]
    return [ToolCall(name, {one_argument(name, functions[name]): body.rstrip("\n")}) for name, body in blocks]


def one_argument(name: str, function: Function) -> str:
    """Return the name of the only required argument; raises `DataError` if a block cannot be the argument."""
    parameters: list[Any] = list(inspect.signature(function).parameters.values())
    required = [str(one.name) for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if len(required) != 1:
        listed = ", ".join(required) or "none"
        raise DataError(f"{name}: has the required arguments {listed}, and a block is one; set tool_format: json")
    return required[0]


TEXT_FORMATS = {"json": TextFormat(JSON_PROMPT, _tagged_calls), "block": TextFormat(BLOCK_PROMPT, _block_calls)}
