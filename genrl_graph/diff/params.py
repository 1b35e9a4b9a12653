"""Compare two sets of params, value by value."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from genrl_graph.contract.data_path import without_folders

T = TypeVar("T")
_WIDTH = 100  # a change that is longer than this is written line by line


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    """The old and the new value of something that both graphs have."""

    old: T
    new: T


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a param in YAML form, and whether it is the default."""

    value: Any
    default: bool = False

    def __str__(self) -> str:
        return spelled(self.value) + (" (default)" if self.default else "")


@dataclass(frozen=True, slots=True)
class ParamChange:
    """A param, or a value inside one, that differs; `old` or `new` is None where that graph lacks it."""

    path: tuple[str, ...]
    old: Value | None
    new: Value | None

    def lines(self, prefix: str = "") -> list[str]:
        """Return `learning_rate 1e-06 (default) -> 1e-05`, or, for long values, the lines or items that differ."""
        head = f"{prefix}{'.'.join(self.path)}"
        line = f"{head} {self.old or 'not set'} -> {self.new or 'not set'}"
        if len(line) <= _WIDTH:
            return [line]
        if self.old is None or self.new is None:
            return [shortened(line)]
        was = " (was the default)" if self.old.default else " (is the default now)" if self.new.default else ""
        return [f"{head} changes{was}", *_changed(_pieces(self.old.value), _pieces(self.new.value))]


def value_changes(old: Mapping[str, Value], new: Mapping[str, Value]) -> tuple[ParamChange, ...]:
    """Return the values that differ; mappings are compared key by key."""
    return tuple(change for name in {**old, **new} for change in _changes((name,), old.get(name), new.get(name)))


def values_of(model: BaseModel) -> dict[str, Value]:
    """Return all params in YAML form, defaults included and without the folders of data files."""
    values: dict[str, Value] = {}
    for name in type(model).model_fields:
        try:
            plain = model.model_dump(mode="json", include={name}, warnings=False)
            written = model.model_dump(mode="json", include={name}, exclude_defaults=True, warnings=False)
            plain = without_folders(type(model).model_fields, plain)
            values[name] = Value(finite(plain[name]), name not in written)
        except PydanticSerializationError:
            value = getattr(model, name)
            label = getattr(value, "__qualname__", type(value).__qualname__)
            values[name] = Value(f"{label}, which has no YAML form")
    return values


def spelled(value: Any) -> str:
    """Return a value on one line, as JSON, which YAML reads too."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def shortened(text: str) -> str:
    """Return the text, shortened to fit one line."""
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _changes(path: tuple[str, ...], old: Value | None, new: Value | None) -> Iterator[ParamChange]:
    if old and new and isinstance(old.value, dict) and isinstance(new.value, dict):
        for key in {**old.value, **new.value}:
            values = (Value(v.value[key], v.default) if key in v.value else None for v in (old, new))
            yield from _changes((*path, str(key)), *values)
    elif old is None or new is None or _canonical(old.value) != _canonical(new.value):
        yield ParamChange(path, old, new)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def finite(value: Any) -> Any:
    """Return the value with infinities and NaN as YAML spells them, because JSON has no form for them."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f".{value!r}".replace(".-", "-.")
    return value


def _pieces(value: Any) -> list[str]:
    if isinstance(value, str):
        return [spelled(line) for line in value.split("\n")]
    return [spelled(item) for item in value] if isinstance(value, list) else [spelled(value)]


def _changed(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from (f"  - {line}" for line in old[i:j])
            yield from (f"  + {line}" for line in new[k:m])
