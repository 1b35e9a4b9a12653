"""Python values as JSON: plain data of built-in types, and nothing that could act where it arrives.

Runs in the sandboxes, so it needs the standard library alone.
"""

from typing import Any

MOST_ITEMS = 100_000
"""Most items of an iterator that are sent."""


class NotData(Exception):
    """A value that is no data, such as an object of a class of the program."""


def encode(value: Any) -> Any:
    """Return a value of built-in types in the form that JSON has; values of subclasses become those of the base."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return ["dict", *([encode(key), encode(inner)] for key, inner in dict.items(value))]
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return [name, *map(encode, kind.__iter__(value))]
    if isinstance(value, bytes | bytearray):
        return [type(value).__name__, value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if hasattr(value, "__next__"):
        return ["iterator", *(encode(inner) for _, inner in zip(range(MOST_ITEMS), value))]  # noqa: B905  # it may be longer
    raise NotData(type(value).__name__)


def decode(data: Any) -> Any:
    """Return the value of its JSON form; raises `ValueError`, `TypeError` or `LookupError` if it is none."""
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise ValueError("a JSON object is no value")
        return data
    name, *items = data
    if name == "dict":
        return {decode(key): decode(inner) for key, inner in items}
    if name in _SEQUENCES:
        return _SEQUENCES[name](map(decode, items))
    if name == "iterator":
        return iter([decode(item) for item in items])
    return _SCALARS[name](*items)


_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_SCALARS: dict[str, Any] = {
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": complex,
    "range": range,
}
