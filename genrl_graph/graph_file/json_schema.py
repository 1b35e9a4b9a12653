"""The JSON Schema of graph files, with which editors complete them and mark errors.

It accepts all that `check` accepts, and refuses local errors: unknown types, keys and params, values of the wrong
type or out of range, and missing keys. Only `check` finds unknown references, edges of the wrong type, and errors of
node validators. A file with a `defaults` list may lack any key, because another file can give it.
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
    """Return the schema as file content, byte-stable for the same types."""
    return json.dumps(graph_schema(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def graph_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of graph files that may name any type registered now."""
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
    role = {"description": "Role of the peers that play this node; without it all do", "type": "string", **_is(_NAME)}
    definitions["node"] = _part(nodes, {"role": role, "inputs": {"type": ["object", "null"]}})
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
        "defaults": {"description": "Files that this file is merged onto, as Hydra composes them", **_DEFAULTS},
        "hydra": {"description": "Settings of Hydra; not part of the graph"},
        "graph": {"description": "Name of the game and of its run folders", "type": "string", **_is(_GRAPH_NAME)},
        "version": {"description": "Version of the file format", "const": VERSION},
        "carry": {
            "description": "Values that every round starts with, by name",
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
    text = "The output that is its value in the next round; without it the value never changes"
    return {"description": text, "anyOf": [_OUTPUT, {"type": "null"}]}


def _part(types: Mapping[str, type[Declared]], more: dict[str, _Schema]) -> _Schema:
    """Return the schema of a carry or node: its keys, and for each type the inputs and params."""
    firsts = [(inspect.getdoc(cls) or "").partition("\n")[0] for cls in types.values()]
    type_of = {"enum": list(types), "enumDescriptions": firsts}
    return {
        "type": "object",
        "properties": {"type": type_of, **more, "params": {"type": ["object", "null"]}},
        "additionalProperties": False,
        "allOf": [_of_type(name, {"$ref": f"#/$defs/{name}"}) for name in types],
    }


def _whole_part(types: Mapping[str, type[Declared]], needs: Mapping[str, dict[str, list[str]]]) -> _Schema:
    """Return the required keys of a carry or node in a complete file: its type, and what that type requires."""
    rules = []
    for name in types:
        required = {key: {"type": "object", "required": names} for key, names in needs[name].items() if names}
        if required:
            rules.append(_of_type(name, {"required": list(required), "properties": required}))
    return {"required": ["type"], **({"allOf": rules} if rules else {})}


def _of_type(name: str, then: _Schema) -> _Schema:
    return {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": then}


def _define(name: str, cls: type[Declared], definitions: dict[str, _Schema]) -> dict[str, list[str]]:
    """Define the `inputs` and `params` of a type; return the required names of each."""
    params = _params(name, cls, definitions)
    needs = {"params": params.pop("required", [])}
    below = {"params": {**params, "type": ["object", "null"]}}
    if issubclass(cls, Node):
        sockets = cls.signature.inputs
        needs = {"inputs": [socket.name for socket in sockets if not socket.optional], **needs}
        wires = {socket.name: {"description": _described(socket), **_wire(socket)} for socket in sockets}
        inputs = {"type": ["object", "null"], "properties": wires, "additionalProperties": False}
        below = {"inputs": inputs, **below}
    definitions[name] = {"properties": {"type": {"description": inspect.getdoc(cls) or ""}, **below}}
    return needs


def _described(socket: Socket) -> str:
    return f"{socket}: {socket.meaning}" if socket.meaning else str(socket)


def _wire(socket: Socket) -> _Schema:
    """Return the schema of an input: one output, a list of outputs (or just one), or outputs by name."""
    least = 0 if socket.optional else 1
    if socket.many == "one":
        return _OUTPUT
    if socket.many == "list":
        return {"anyOf": [{"type": "array", "items": _OUTPUT, "minItems": least}, _OUTPUT]}
    return {"type": "object", "additionalProperties": _OUTPUT, "minProperties": least}


def _params(name: str, cls: type[BaseModel], definitions: dict[str, _Schema]) -> _Schema:
    """Return the schema of a type's params; nested models go to the definitions as `type.Model`."""
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
    """Generates the schema of the params that the check accepts in a file.

    Numbers and truth values may be texts: `1_000` and `yes` are texts to editors, which read YAML 1.2. A field with a
    validator of the raw value accepts anything, unless the validator declares `json_schema_input_type`.
    """

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        """Accept a whole number, or a text of one."""
        return _or_text(super().int_schema(schema), schema, _WHOLE, "write a whole number")

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        """Accept a number, or a text of one."""
        return _or_text(super().float_schema(schema), schema, _NUMBER, "write a number")

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        """Accept a truth value, or a text of one."""
        return _or_text(super().bool_schema(schema), schema, _TRUTH, "write true or false")

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """Accept anything, unless the validator declares its input type."""
        inner = super().function_before_schema(schema)
        return inner if schema.get("json_schema_input_schema") else {"anyOf": [inner, {}]}

    def function_wrap_schema(self, schema: core_schema.WrapValidatorFunctionSchema) -> JsonSchemaValue:
        """Accept anything, unless the validator declares its input type."""
        inner = super().function_wrap_schema(schema)
        return inner if schema.get("json_schema_input_schema") else {"anyOf": [inner, {}]}

    def union_schema(self, schema: core_schema.UnionSchema) -> JsonSchemaValue:
        """Accept any member type; anything if no member has a schema."""
        union = super().union_schema(schema)
        return {} if union == {"anyOf": []} else union

    def model_field_schema(self, schema: core_schema.ModelField) -> JsonSchemaValue:
        """Accept anything in a field whose type has no schema, such as a function."""
        try:
            return super().model_field_schema(schema)
        except PydanticInvalidForJsonSchema:
            return {}

    def encode_default(self, dft: Any) -> Any:
        """Return the default as JSON; pydantic leaves it out if JSON has no form for it."""
        default = super().encode_default(dft)
        try:
            json.dumps(default, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise PydanticSerializationError(str(error)) from error
        return default

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False: pydantic's titles only repeat the field names."""
        return False


def _or_text(json_schema: JsonSchemaValue, schema: Mapping[str, Any], pattern: str, advice: str) -> JsonSchemaValue:
    if schema.get("strict"):
        return json_schema
    return json_schema | {"type": [json_schema["type"], "string"], "pattern": pattern, "patternErrorMessage": advice}
