"""Parse JSON of strangers, bounded in depth."""

import json
import re
from typing import Any

from genrl_graph.errors import StoreError

MAX_DEPTH = 64
RESTORE = "restore it from a copy"
_NESTING = re.compile(r'"(?:[^"\\]|\\.?)*+"?|[\[\]{}]', re.DOTALL)  # strings, which may hold brackets, and brackets


class NestingError(ValueError):
    """Raised for JSON that is nested more than `MAX_DEPTH` deep."""


def bounded_json(data: bytes | str) -> Any:
    """Return the value of a JSON text; raises `ValueError` where it is none, and of these `NestingError`."""
    text = data if isinstance(data, str) else data.decode()
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _refuse_deep(text)
    return json.loads(text)


def parse_json(data: bytes | str, where: object) -> Any:
    """Return the value of a JSON text; raises `StoreError` where it is none, or one that we never write."""
    try:
        return bounded_json(data)
    except NestingError as error:
        raise StoreError(f"{where}: {error}; {RESTORE}") from error
    except ValueError as error:
        raise StoreError(f"{where}: no JSON that a run writes ({error}); {RESTORE}") from error


def parse_object(data: bytes | str, where: object) -> dict[str, Any]:
    """Return a JSON object as `parse_json` does; raises `StoreError` for any other value."""
    value = parse_json(data, where)
    if not isinstance(value, dict):
        raise StoreError(f"{where}: is {type(value).__name__}, not a JSON object; {RESTORE}")
    return value


def is_count(value: object) -> bool:
    """Return whether a value is a whole number that a position or a number of rows can be: 0 to 2^62."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _refuse_deep(text: str) -> None:
    """Raise before the text is parsed, which crashes where a library has raised the limit of recursion."""
    depth = 0
    for token in _NESTING.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise NestingError(f"is nested more than {MAX_DEPTH} deep")
