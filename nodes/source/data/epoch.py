"""Select the rows of a fixed data set for each round, and convert tasks to a frame."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.seeds import substream

EVAL_KEY_PREFIX = "eval-"
"""Key prefix of held-out tasks that are not rows of the training data."""

_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")


def shuffled_rows(rng: np.random.Generator, *, round: int, num_tasks: int, size: int) -> list[int]:
    """Sample the rows of a round out of `size` without replacement: a pure function of the rng's seed and the round.

    Every epoch is a permutation of all rows. A batch that crosses the end of an epoch continues in the next one, whose
    order changes only as far as needed to keep the rows of the batch unique.
    """
    start, rows = round * num_tasks, list[int]()
    while len(rows) < num_tasks:
        epoch, offset = divmod(start + len(rows), size)
        rows += _epoch_order(rng, epoch, num_tasks, size)[offset : offset + num_tasks - len(rows)].tolist()
    return rows


def rows_in_order(*, round: int, num_tasks: int, size: int) -> list[int]:
    """Return the rows of a round out of `size` in order, starting over after the last."""
    return [(round * num_tasks + position) % size for position in range(num_tasks)]


def _epoch_order(
    rng: np.random.Generator, epoch: int, num_tasks: int, size: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the order of an epoch's rows; its head avoids the rows that the previous epoch put into the same batch.

    The order depends on the previous epoch's, so it is computed from an epoch whose order is a plain permutation.
    """
    period = num_tasks // math.gcd(num_tasks, size)  # in every `period`-th epoch a batch starts with the epoch
    first = epoch - epoch % period
    if size >= 2 * num_tasks:
        first = max(first, epoch - 1)  # reordering the head cannot change the tail, so one epoch back suffices
    order = substream(rng, "epoch", first).permutation(size)
    for number in range(first + 1, epoch + 1):
        filled = (number * size) % num_tasks  # rows of the shared batch that come from the previous epoch
        tail, order = order[size - filled :], substream(rng, "epoch", number).permutation(size)
        fresh = np.flatnonzero(~np.isin(order, tail))[: num_tasks - filled]
        order = np.concatenate([order[fresh], np.delete(order, fresh)]) if filled else order
    return order


def require_enough_rows(*, num_tasks: int, size: int) -> None:
    """Raise `DataError` if a round asks for more tasks than there are rows: a batch would repeat a row."""
    if num_tasks > size:
        raise DataError(f"num_tasks is {num_tasks}, but there are {size} rows; lower num_tasks")


def row_of(task_id: str, *, node: str, size: int | None, prefix: str = "") -> int:
    """Parse the row number of the task id `<node>/<prefix><row>`; raises `DataError` for an invalid id.

    With `size` None the number of rows is unknown, and the row number is not checked against it.
    """
    key = task_id.removeprefix(f"{node}/{prefix}")
    if key == task_id or not _INDEX.fullmatch(key):
        raise DataError(f"{node}: {task_id[:200]!r} is no task of this source; its ids are {node}/{prefix}<row>")
    if size is not None and int(key) >= size:
        raise DataError(f"{node}: task {task_id!r}: there are {size} rows; is it from a larger copy of the data?")
    return int(key)


def as_rows(tasks: Sequence[Task]) -> Tasks:
    """Convert tasks to a `Tasks` frame."""
    columns = {
        "id": [task.id for task in tasks],
        "messages": [task.messages for task in tasks],
        "answer": [task.answer for task in tasks],
        "metadata": [json_text(task.metadata) for task in tasks],
    }
    return Tasks.from_columns(columns)


def json_text(value: Mapping[str, Any]) -> str:
    """Return a mapping as JSON on one line; values without a JSON type become text."""
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: Any) -> Any:
    """Convert a value to JSON types: tuples become lists, keys and values without a JSON type become text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value)
