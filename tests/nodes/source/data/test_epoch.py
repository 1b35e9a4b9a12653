"""Rows of a round: unique within a batch, every row once per epoch."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.errors import DataError
from genrl_graph.nodes.source.data.epoch import json_text, row_of, rows_in_order, shuffled_rows
from genrl_graph.seeds import stream


@given(st.integers(1, 12), st.integers(0, 30), st.integers(0, 2**32))
def test_every_epoch_gives_every_row_once_and_no_batch_a_row_twice(num_tasks: int, more: int, seed: int) -> None:
    size = num_tasks + more
    drawn = []
    for round in range(3 * size):
        batch = shuffled_rows(stream(seed), round=round, num_tasks=num_tasks, size=size)
        assert len(set(batch)) == num_tasks
        drawn += batch
    for start in range(0, len(drawn) - size + 1, size):
        assert Counter(drawn[start : start + size]) == Counter(range(size))


@given(st.integers(0, 500))
def test_a_round_does_not_depend_on_the_rounds_drawn_before(round: int) -> None:
    rng = stream("used")
    rng.random(17)
    assert shuffled_rows(rng, round=round, num_tasks=7, size=23) == shuffled_rows(
        stream("used"), round=round, num_tasks=7, size=23
    )


def test_seeds_and_epochs_differ() -> None:
    first = shuffled_rows(stream("a"), round=0, num_tasks=50, size=50)
    assert first != shuffled_rows(stream("b"), round=0, num_tasks=50, size=50)
    assert first != shuffled_rows(stream("a"), round=1, num_tasks=50, size=50)


def test_in_order_begins_again() -> None:
    assert [rows_in_order(round=r, num_tasks=2, size=3) for r in range(3)] == [[0, 1], [2, 0], [1, 2]]


@pytest.mark.parametrize("key", ["", "-1", "01", "1.0", " 1", "１", "9" * 5000, "5", "x"])
def test_only_the_ids_of_rows_are_rows(key: str) -> None:
    assert row_of("tasks/4", node="tasks", size=5) == 4
    with pytest.raises(DataError) as raised:
        row_of(f"tasks/{key}", node="tasks", size=5)
    assert len(str(raised.value)) < 400 and "\n" not in str(raised.value)


def test_another_node_s_id_is_refused() -> None:
    with pytest.raises(DataError, match="no task of this source"):
        row_of("others/4", node="tasks", size=5)


def test_metadata_is_strict_json() -> None:
    mixed: dict[Any, Any] = {"a": (1, 2.5), 3: float("nan"), "s": {1}}
    assert json_text(mixed) == '{"a": [1, 2.5], "3": "nan", "s": "{1}"}'
    assert json_text({"n": np.float64(2.0)}) == '{"n": 2.0}'
