"""Check the return value of a reward function: one number per row, or the reason why there is none."""

import math

from genrl_graph.messages import short
from genrl_graph.nodes.worker.worker import Failure


def numbers_of(returned: object, rows: int) -> list[float | Failure]:
    """Return one finite number or `Failure` per row; all rows fail if the call failed or gave no list of that length.

    `rows` is the number of rows of the call.
    """
    if isinstance(returned, Failure):
        return [returned] * rows
    to_list = getattr(returned, "tolist", None)
    values = to_list() if callable(to_list) else returned
    if not isinstance(values, list | tuple):
        reason = f"returned {short(returned)}; return a list of numbers"
    elif len(values) != rows:
        reason = f"returned {len(values)} values for {rows} completions; return one for each"
    else:
        return [_number(value) for value in values]
    return [Failure(reason)] * rows


def _number(value: object) -> float | Failure:
    """Convert a scalar of Python, numpy or torch (booleans included) to a finite number or `Failure`."""
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
