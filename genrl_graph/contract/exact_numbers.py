"""Params that are numbers take numbers: no booleans, and no text that only looks like a number.

pydantic takes False for 0, and "0123" for 123. YAML reads `no`, `on` and `off` as booleans, so `rounds: no` would play
no round and `temperature: off` would be greedy.
"""

import re
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_INNER = ("schema", "items_schema", "keys_schema", "values_schema", "extras_schema", "lax_schema", "strict_schema")


def _exact(schema: Any) -> Any:
    """Return a copy of a core schema in which every number is checked first."""
    if isinstance(schema, list):
        return [_exact(inner) for inner in schema]
    if isinstance(schema, tuple):  # a choice of a union with its label
        return (_exact(schema[0]), *schema[1:])
    copy = dict(schema)
    if copy["type"] in ("int", "float"):
        return core_schema.no_info_before_validator_function(
            _refuse_other_types, schema, json_schema_input_schema=schema
        )
    for key in _INNER:
        if isinstance(copy.get(key), dict | list):
            copy[key] = _exact(copy[key])
    for key in ("choices", "steps", "definitions"):
        if isinstance(copy.get(key), list):
            copy[key] = _exact(copy[key])
    for key in ("choices", "fields"):
        if isinstance(copy.get(key), dict):
            copy[key] = {name: _exact(inner) for name, inner in copy[key].items()}
    return copy


def _refuse_other_types(value: object) -> object:
    if isinstance(value, bool):
        text = "wants a number, not true or false (in YAML also yes, no, on and off); write a number"
        raise PydanticCustomError("number_wanted", text)
    if isinstance(value, str) and value[:2].strip("-+")[:1].isdigit() and not _DECIMAL.fullmatch(value):
        raise PydanticCustomError("number_wanted", "wants a number in decimal digits, such as 83 or 1e-3")
    return value


class ExactNumbers(BaseModel):
    """Base of models whose numbers, also in lists, mappings and unions, refuse booleans and texts that are no number.

    A model inside another one needs this base itself: its schema is built once, for all that use it.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the model with a check before every number."""
        schema: CoreSchema = _exact(handler(source))
        return schema
