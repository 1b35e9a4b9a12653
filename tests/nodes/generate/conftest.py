import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from architectures import causal
from fixture_types import Resources, Written

from genrl_graph import Log, Rollouts, Tasks, TextPolicy
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM


@pytest.fixture(scope="session")
def policy() -> CausalPolicy:
    return causal(TinyLM(hidden_size=16, heads=2, layers=1).init("policy", seed=0))


@pytest.fixture
def tasks() -> Tasks:
    rows = [
        {
            "id": f"tasks/{at}",
            "messages": [{"role": "user", "content": question}],
            "answer": "SECRET",
            "metadata": json.dumps({"level": at}),
        }
        for at, question in enumerate(["2+2=", "What is 3 times 5?"])
    ]
    return Tasks.from_rows(rows)


@pytest.fixture
def resources() -> Resources:
    """Return a factory of the resources that a runner supplies, new ones at each call."""

    def make(seed: int = 0, peer: str = "peer0000") -> dict[str, Any]:
        return {"rng": np.random.default_rng(seed), "log": Log(), "round": 3, "peer": peer}

    return make


@pytest.fixture
def written(policy: TextPolicy) -> Written:
    """Return a factory of rollouts from (task id, peer, completion); completion None makes a failed row."""

    def make(texts: Sequence[tuple[str, str, str | None]]) -> Rollouts:
        rows = [
            {
                "id": f"{task}-{peer}-{at}",
                "task_id": task,
                "group_id": f"{task}-{peer}",
                "parent_ids": [],
                "peer": peer,
                "node": "answer",
                "stage": 0,
                "round": 3,
                "sample": at,
                "policy": "policy",
                "policy_version": 0,
                "tokenizer_fingerprint": policy.tokenizer_fingerprint,
                "temperature": 1.0,
                "messages": [{"role": "user", "content": "?"}],
                "prompt_ids": [5],
                "completion_ids": [],
                "completion_mask": [],
                "logprobs": [],
                "completion": text or "",
                "finish_reason": "failed" if text is None else "stop",
                "error": "too long" if text is None else "",
            }
            for at, (task, peer, text) in enumerate(texts)
        ]
        return Rollouts.from_rows(rows).marked(PEER)

    return make
