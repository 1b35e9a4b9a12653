"""Which rows of a fixed data set are the tasks of a round, and the rows that tasks become."""

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
"""What the keys of tasks begin with that stand beside those of training and are held out for evaluation."""

_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")


def shuffled_rows(rng: np.random.Generator, *, round: int, num_tasks: int, size: int) -> list[int]:
    """The rows of a round out of `size`, drawn without replacement: a pure function of the rng's seed and the round.

    Every epoch is a permutation of all rows. A batch that its epoch cannot fill goes on in the next one, whose
    order is changed just so far that no row is twice in that batch.
    """
    start, rows = round * num_tasks, list[int]()
    while len(rows) < num_tasks:
        epoch, offset = divmod(start + len(rows), size)
        rows += _epoch_order(rng, epoch, num_tasks, size)[offset : offset + num_tasks - len(rows)].tolist()
    return rows


def rows_in_order(*, round: int, num_tasks: int, size: int) -> list[int]:
    """The rows of a round out of `size`, as they stand, from the beginning again after the last."""
    return [(round * num_tasks + position) % size for position in range(num_tasks)]


def _epoch_order(
    rng: np.random.Generator, epoch: int, num_tasks: int, size: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    period = num_tasks // math.gcd(num_tasks, size)  # every so many epochs a batch begins with the epoch
    first = epoch - epoch % period
    if size >= 2 * num_tasks:
        first = max(first, epoch - 1)  # changes of the head do not reach the tail
    order = substream(rng, "epoch", first).permutation(size)
    for number in range(first + 1, epoch + 1):
        begun = (number * size) % num_tasks  # how much of the batch the epoch before has given
        tail, order = order[size - begun :], substream(rng, "epoch", number).permutation(size)
        fresh = np.flatnonzero(~np.isin(order, tail))[: num_tasks - begun]
        order = np.concatenate([order[fresh], np.delete(order, fresh)]) if begun else order
    return order


def enough_rows(*, num_tasks: int, size: int) -> None:
    """Raises `DataError` where a round asks for more tasks than there are: one would be twice in a batch."""
    if num_tasks > size:
        raise DataError(f"num_tasks is {num_tasks}, but there are {size} rows; lower num_tasks")


def row_of(task_id: str, *, node: str, size: int | None, prefix: str = "") -> int:
    """The row that the id `<node>/<prefix><row>` names; raises `DataError` where there is none.

    `size` None leaves open how many rows there are.
    """
    key = task_id.removeprefix(f"{node}/{prefix}")
    if key == task_id or not _INDEX.fullmatch(key):
        raise DataError(f"{node}: {task_id[:200]!r} is no task of this source; its ids are {node}/{prefix}<row>")
    if size is not None and int(key) >= size:
        raise DataError(f"{node}: task {task_id!r}: there are {size} rows; is it from a larger copy of the data?")
    return int(key)


def as_rows(tasks: Sequence[Task]) -> Tasks:
    """The frame of tasks."""
    columns = {
        "id": [task.id for task in tasks],
        "messages": [task.messages for task in tasks],
        "answer": [task.answer for task in tasks],
        "metadata": [json_text(task.metadata) for task in tasks],
    }
    return Tasks.from_columns(columns)


def json_text(value: Mapping[str, Any]) -> str:
    """A mapping as JSON on one line; what JSON does not know becomes text."""
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: Any) -> Any:
    """The value in JSON's own types: keys and values that JSON does not know become text, tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value)
