"""What a reward function returned, read as one verdict a row: a number, or why there is none."""

import math

from genrl_graph.messages import short
from genrl_graph.nodes.reward.worker.worker import Failure


def numbers_of(returned: object, rows: int) -> list[float | Failure]:
    """One finite number a row, or `Failure`; all rows fail where a call did, or gave no list of `rows` values."""
    if isinstance(returned, Failure):
        return [returned] * rows
    to_list = getattr(returned, "tolist", None)
    values = to_list() if callable(to_list) else returned
    if not isinstance(values, list | tuple):
        wrong = f"returned {short(returned)}; return a list of numbers"
    elif len(values) != rows:
        wrong = f"returned {len(values)} values for {rows} completions; return one for each"
    else:
        return [_number(value) for value in values]
    return [Failure(wrong)] * rows


def _number(value: object) -> float | Failure:
    """The value of a scalar of Python, numpy or torch, booleans included."""
    to_list = getattr(value, "tolist", None)
    plain = to_list() if callable(to_list) else value
    if plain is None:
        return Failure("returned None")
    try:
        number = float(plain) if isinstance(plain, int | float) else None
    except OverflowError:
        number = None
    if number is None or math.isinf(number):
        return Failure(f"returned {short(value)}; return finite numbers, or None for what cannot be judged")
    return Failure("returned NaN") if math.isnan(number) else number
