"""Axes of a sweep: overrides in Hydra's grammar that give several values, or an interval to draw them from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genrl_graph.errors import ParamError
from genrl_graph.graph_file.overrides import override_error, parse_syntax

MOST_VALUES = 10_000


@dataclass(frozen=True, slots=True)
class Axis:
    """The values of one key: whole overrides in the order written, and each value as text."""

    key: str
    overrides: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval to draw values of a key from: whole numbers if both ends are, evenly, or by their logarithm."""

    key: str
    prefix: str
    low: float
    high: float
    whole: bool
    log: bool

    def override(self, value: float) -> str:
        """Return the override that sets a value."""
        return f"{self.prefix}={value}"


def parse_axis(text: str) -> Axis | Interval:
    """Parse `key=a,b`, `key=range(...)`, `key=choice(...)`, `key=interval(low,high)` or a plain override.

    `key=tag(log,interval(low,high))` is drawn by its logarithm. Raises `ParamError` for bad syntax, an axis without
    values, values given twice, or one that needs files (`glob`).
    """
    override = parse_syntax(text)
    element = override.get_key_element()
    if not override.is_sweep_override():
        value = "" if override.is_delete() else text.partition("=")[2]
        return Axis(override.key_or_group, (text,), (value,))
    if override.is_interval_sweep():
        return _interval(override, element)
    if "glob" in override.value_type.name.lower():
        raise override_error(override, "files are not looked up in a sweep; list the options: group=a,b")
    values = tuple(_texts(override))
    if not values:
        raise override_error(override, "gives no value; write key=a,b or key=range(start,stop)")
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise override_error(override, f"gives {twice[0]} twice; leave one out")
    return Axis(override.key_or_group, tuple(f"{element}={value}" for value in values), values)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse `0:5` (from 0 up to but without 5), `1,3,7` or one seed; raises `ParamError` for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, colon, stop = (piece.strip() for piece in part.partition(":"))
        if not (first.isdecimal() and (stop.isdecimal() or not colon)):
            raise ParamError(f"--seeds {text}: {part!r} is no seed; write 0:5, or 1,3,7")
        if colon and int(stop) - int(first) > MOST_VALUES:
            raise ParamError(f"--seeds {text}: are {int(stop) - int(first)} seeds, of {MOST_VALUES} at most")
        seeds += range(int(first), int(stop)) if colon else [int(first)]
    if not seeds:
        raise ParamError(f"--seeds {text}: holds no seed; write 0:5 for the seeds 0 to 4")
    if len(set(seeds)) < len(seeds):
        raise ParamError(f"--seeds {text}: gives a seed twice; leave one out")
    return tuple(seeds)


def seeds_of(axis: Axis) -> tuple[int, ...]:
    """Return the seeds of an axis of `run.seed`; raises `ParamError` where a value is none."""
    if not all(value.isdecimal() for value in axis.values):
        raise ParamError(f"run.seed={','.join(axis.values)}: a seed is a whole number of at least 0; write --seeds 0:5")
    return tuple(map(int, axis.values))


def require_distinct(axes: Sequence[Axis | Interval]) -> None:
    """Raise `ParamError` where two axes set the same key."""
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise ParamError(f"{key}: is set {keys.count(key)} times; give all values at once, as in {key}=a,b")


def _texts(override: Any) -> list[str]:
    from hydra.errors import HydraException

    texts: list[str] = []
    try:
        for value in override.sweep_string_iterator():
            texts.append(str(value))
            if len(texts) > MOST_VALUES:
                raise override_error(override, f"gives more than {MOST_VALUES} values; give fewer")
    except HydraException as error:
        raise override_error(override, " ".join(str(error).split())) from error
    return texts


def _interval(override: Any, element: str) -> Interval:
    interval = override.value()
    low, high = interval.start, interval.end
    numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high))
    log = "log" in (interval.tags or ())
    if not numbers or low >= high or (log and low <= 0):
        wants = "two numbers, the lower first, both above 0" if log else "two numbers, the lower first"
        raise override_error(override, f"an interval has {wants}; write interval(1e-4, 1e-2)")
    whole = isinstance(low, int) and isinstance(high, int)
    return Interval(override.key_or_group, element, low, high, whole, log)
