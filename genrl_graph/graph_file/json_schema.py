"""The JSON Schema of graph files, by which editors complete them and underline what is wrong.

It accepts what `check` accepts, and refuses what can be seen in one place: unknown types, keys and params, values of
the wrong type or out of range, what is missing. Names that lead nowhere, edges that do not fit, and validators of
nodes are left to `check`. A file with a `defaults` list may lack anything, for another file can give it.
"""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticSerializationError, core_schema

from genrl_graph.contract import registry
from genrl_graph.contract.declared import Declared
from genrl_graph.contract.node import Carry, Node
from genrl_graph.dag.check import RESERVED
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.edge_types.edge_type import Socket
from genrl_graph.graph_file.document import VERSION

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_GRAPH_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_OUTPUT = {"$ref": "#/$defs/output"}
_Schema = dict[str, Any]


def schema_text() -> str:
    """The schema as a file, byte-stable for the same types."""
    return json.dumps(graph_schema(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def graph_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of graph files that name any of the types known now."""
    definitions: dict[str, _Schema] = {
        "output": {
            "type": "string",
            "pattern": rf"^{_NAME}(\.\S+)?$",
            "patternErrorMessage": "write the name of a node or carry, or node.field",
        }
    }
    types = registry.types()
    carries = {name: cls for name, cls in types.items() if issubclass(cls, Carry)}
    nodes = {name: cls for name, cls in types.items() if issubclass(cls, Node)}
    needs = {name: _define(name, cls, definitions) for name, cls in types.items()}
    definitions["carry"] = _part(carries, {"next": _next()})
    definitions["node"] = _part(nodes, {"inputs": {"type": ["object", "null"]}})
    definitions["whole_carry"] = _whole_part(carries, needs)
    definitions["whole_node"] = _whole_part(nodes, needs)
    definitions["whole"] = {
        "required": ["graph", "version", "nodes"],
        "properties": {
            "carry": {"additionalProperties": {"$ref": "#/$defs/whole_carry"}},
            "nodes": {"minProperties": 1, "additionalProperties": {"$ref": "#/$defs/whole_node"}},
        },
    }
    return {
        "$schema": DIALECT,
        "title": "A graph of genrl-graph",
        "type": "object",
        "properties": _top(definitions),
        "additionalProperties": False,
        "if": {"not": {"required": ["defaults"]}},
        "then": {"$ref": "#/$defs/whole"},
        "$defs": definitions,
    }


def _top(definitions: dict[str, _Schema]) -> dict[str, _Schema]:
    names = {"pattern": f"^{_NAME}$", "not": {"enum": sorted(RESERVED)}}
    run = _params("run", RunConfig, definitions)
    return {
        "defaults": {"description": "Files that this one is laid over, as Hydra composes them", **_DEFAULTS},
        "hydra": {"description": "Settings of Hydra, which are no part of a graph"},
        "graph": {"description": "Name of the game and of its run folders", "type": "string", **_is(_GRAPH_NAME)},
        "version": {"description": "Version of the file format", "const": VERSION},
        "carry": {
            "description": "What every round starts with, by name",
            "type": ["object", "null"],
            "propertyNames": names,
            "additionalProperties": {"$ref": "#/$defs/carry"},
        },
        "nodes": {
            "description": "The steps of a round, by name",
            "type": "object",
            "propertyNames": names,
            "additionalProperties": {"$ref": "#/$defs/node"},
        },
        "run": {**run, "type": ["object", "null"]},
    }


_OPTION = {"type": ["string", "null"]}
_DEFAULTS: _Schema = {
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "propertyNames": {"pattern": r"\S"},
                "additionalProperties": {"anyOf": [_OPTION, {"type": "array", "items": _OPTION}]},
            },
        ]
    },
}


def _is(pattern: str) -> _Schema:
    return {"pattern": f"^{pattern}$"}


def _next() -> _Schema:
    what = "The output that is its value in the next round; without it the value never changes"
    return {"description": what, "anyOf": [_OUTPUT, {"type": "null"}]}


def _part(types: Mapping[str, type[Declared]], more: dict[str, _Schema]) -> _Schema:
    """A carry or node: its keys, and for each type what may stand below them."""
    firsts = [(inspect.getdoc(cls) or "").partition("\n")[0] for cls in types.values()]
    type_of = {"enum": list(types), "enumDescriptions": firsts}
    return {
        "type": "object",
        "properties": {"type": type_of, **more, "params": {"type": ["object", "null"]}},
        "additionalProperties": False,
        "allOf": [_of_type(name, {"$ref": f"#/$defs/{name}"}) for name in types],
    }


def _whole_part(types: Mapping[str, type[Declared]], needs: Mapping[str, dict[str, list[str]]]) -> _Schema:
    """What a carry or node may not lack where no other file can give it: its type, and what that requires."""
    rules = []
    for name in types:
        required = {key: {"type": "object", "required": names} for key, names in needs[name].items() if names}
        if required:
            rules.append(_of_type(name, {"required": list(required), "properties": required}))
    return {"required": ["type"], **({"allOf": rules} if rules else {})}


def _of_type(name: str, then: _Schema) -> _Schema:
    return {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then}


def _define(name: str, cls: type[Declared], definitions: dict[str, _Schema]) -> dict[str, list[str]]:
    """Define what a type has below `inputs` and `params`; returns the names required there."""
    params = _params(name, cls, definitions)
    needs = {"params": params.pop("required", [])}
    below = {"params": {**params, "type": ["object", "null"]}}
    if issubclass(cls, Node):
        sockets = cls.signature.inputs
        needs = {"inputs": [socket.name for socket in sockets if not socket.optional], **needs}
        wires = {socket.name: {"description": str(socket), **_wire(socket)} for socket in sockets}
        inputs = {"type": ["object", "null"], "properties": wires, "additionalProperties": False}
        below = {"inputs": inputs, **below}
    definitions[name] = {"properties": {"type": {"description": inspect.getdoc(cls) or ""}, **below}}
    return needs


def _wire(socket: Socket) -> _Schema:
    """What an input may read: one output, a list of them (or just one), or several by name."""
    least = 0 if socket.optional else 1
    if socket.many == "one":
        return _OUTPUT
    if socket.many == "list":
        return {"anyOf": [{"type": "array", "items": _OUTPUT, "minItems": least}, _OUTPUT]}
    return {"type": "object", "additionalProperties": _OUTPUT, "minProperties": least}


def _params(name: str, cls: type[BaseModel], definitions: dict[str, _Schema]) -> _Schema:
    """The schema of the params; that of models below them goes to the definitions, under names of its own."""
    schema = cls.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}", schema_generator=_ParamSchema)
    definitions |= {f"{name}.{model}": inner for model, inner in schema.pop("$defs", {}).items()}
    return {**schema, "title": name}


def _any_case(word: str) -> str:
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in word)


def _any_of(*words: str) -> str:
    return f"({'|'.join(map(_any_case, words))})"


_DIGITS = r"\d+(_\d+)*"
_WHOLE = rf"^\s*[+-]?{_DIGITS}(\.0*)?\s*$"
_FRACTION = rf"({_DIGITS}\.?({_DIGITS})?|\.{_DIGITS})([eE][+-]?\d+)?"
_NUMBER = rf"^\s*[+-]?({_FRACTION}|{_any_of('inf', 'infinity', 'nan')})\s*$"
_TRUTH = f"^{_any_of('true', 'false', 'yes', 'no', 'on', 'off', 't', 'f', 'y', 'n', '1', '0')}$"


class _ParamSchema(GenerateJsonSchema):
    """Says of params what the check accepts in a file.

    Numbers and truth values may be texts: `1_000` and `yes` are texts to editors, which read YAML 1.2. Before a
    validator that reads the raw value anything may stand, unless it declares `json_schema_input_type`.
    """

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return _or_text(super().int_schema(schema), schema, _WHOLE, "write a whole number")

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return _or_text(super().float_schema(schema), schema, _NUMBER, "write a number")

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        return _or_text(super().bool_schema(schema), schema, _TRUTH, "write true or false")

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = super().function_before_schema(schema)
        return inner if schema.get("json_schema_input_schema") else {"anyOf": [inner, {}]}

    def function_wrap_schema(self, schema: core_schema.WrapValidatorFunctionSchema) -> JsonSchemaValue:
        inner = super().function_wrap_schema(schema)
        return inner if schema.get("json_schema_input_schema") else {"anyOf": [inner, {}]}

    def union_schema(self, schema: core_schema.UnionSchema) -> JsonSchemaValue:
        union = super().union_schema(schema)
        return {} if union == {"anyOf": []} else union  # none of its types has a schema

    def model_field_schema(self, schema: core_schema.ModelField) -> JsonSchemaValue:
        try:
            return super().model_field_schema(schema)
        except PydanticInvalidForJsonSchema:  # a function, say: only the check can tell
            return {}

    def encode_default(self, dft: Any) -> Any:
        default = super().encode_default(dft)
        try:
            json.dumps(default, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise PydanticSerializationError(str(error)) from error  # it is then left out
        return default

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # titles of pydantic's own only say the name again


def _or_text(json_schema: JsonSchemaValue, schema: Mapping[str, Any], pattern: str, advice: str) -> JsonSchemaValue:
    if schema.get("strict"):
        return json_schema
    return json_schema | {"type": [json_schema["type"], "string"], "pattern": pattern, "patternErrorMessage": advice}
