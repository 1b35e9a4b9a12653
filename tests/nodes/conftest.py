"""Fixtures: rollouts as a generator returns them, for tests of rewards, selects and advantages."""

from collections.abc import Iterator
from typing import Any

import pytest
from fixture_types import MakeRollouts

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.nodes.worker.worker_pool import shared_pool


@pytest.fixture(scope="session")
def make_rollouts() -> MakeRollouts:
    """Return `make(completions, **columns)`; a column is one value for all rows, or a list with one per row."""

    def make(completions: list[str], **columns: Any) -> Rollouts:
        rows = []
        for at, completion in enumerate(completions):
            values = {name: value[at] if isinstance(value, list) else value for name, value in columns.items()}
            rows.append(_row(at, completion) | values)
        return Rollouts.from_rows(rows)

    return make


def _row(at: int, completion: str) -> dict[str, Any]:
    return {
        "id": f"id{at}",
        "task_id": "tasks/0",
        "group_id": "g0",
        "parent_ids": [],
        "peer": "peer0000",
        "node": "answer",
        "stage": 0,
        "round": 0,
        "sample": at,
        "policy": "policy",
        "policy_version": 0,
        "tokenizer_fingerprint": "t",
        "temperature": 1.0,
        "messages": [{"role": "user", "content": "What is it?"}],
        "prompt_ids": [1, 2],
        "completion_ids": [3, 4 + at],
        "completion_mask": [1, 1],
        "logprobs": [-0.5, -0.25],
        "completion": completion,
        "finish_reason": "stop",
        "error": "",
    }


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(scope="session", autouse=True)
def workers_end() -> Iterator[None]:
    """Stop the worker processes, which the pool keeps from round to round."""
    yield
    shared_pool.cache_clear()
