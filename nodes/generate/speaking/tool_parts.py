"""The param type of tools: in a graph file the type and params of each, in Python the tools themselves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import GetJsonSchemaHandler, PlainSerializer, ValidationError, ValidationInfo
from pydantic.functional_validators import BeforeValidator
from pydantic_core import CoreSchema

from genrl_graph.contract import registry
from genrl_graph.contract.declared import param_problems, told
from genrl_graph.contract.tool import Tool
from genrl_graph.messages import did_you_mean, short

KEYS = {"type", "params"}


def tool_types() -> dict[str, type[Tool]]:
    """Return all known types of tools by name."""
    return {name: cls for name, cls in registry.types().items() if issubclass(cls, Tool)}


def _built(value: object, info: ValidationInfo) -> Tool:
    """Return the tool that a graph file names; raises what `told` makes of the first thing that is wrong."""
    if isinstance(value, Tool):
        return value
    if not isinstance(value, Mapping) or "type" not in value or set(value) - KEYS:
        raise told(f"a tool is {{type: tool.python, params: {{...}}}}, not {short(value)}")
    known = tool_types()
    cls = known.get(value["type"])
    if cls is None:
        hint = did_you_mean(str(value["type"]), known) or f"; there are {', '.join(known)}"
        raise told(f"no tool named {value['type']!r}{hint}; a tool of your own needs --import FILE")
    params = dict(value.get("params") or {})
    try:
        return cls.model_validate(params, context=info.context)
    except ValidationError as error:
        raise told("; ".join(map(str, param_problems(cls, error, params)))) from error


def _plain(tool: Tool) -> dict[str, Any]:
    params = tool.plain_params()
    return {"type": tool.type_name, **({"params": params} if params else {})}


class _Schema:
    """The JSON Schema of a tool in a graph file."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        properties = {"type": {"enum": list(tool_types())}, "params": {"type": ["object", "null"]}}
        return {"type": "object", "properties": properties, "required": ["type"], "additionalProperties": False}


if TYPE_CHECKING:
    ToolPart = Tool
else:
    ToolPart = Annotated[Tool, BeforeValidator(_built), PlainSerializer(_plain), _Schema]
