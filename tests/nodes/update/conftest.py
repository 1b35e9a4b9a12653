"""Real rollouts for updates: sampled by a tiny policy through the generator, with made-up advantages."""

from typing import Any

import numpy as np
import pytest
from architectures import causal
from fixture_types import Sample

from genrl_graph import Log, Rollouts, Tasks, TextPolicy, credit, score
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM

QUESTIONS = ("1+2=", "what is 3+4?", "5+6=", "7+8 is equal to ")


@pytest.fixture
def policy() -> CausalPolicy:
    return causal(TinyLM(hidden_size=32, layers=1, initializer_range=0.2).init("policy", seed=0))


@pytest.fixture(scope="session")
def sample() -> Sample:
    """Sample rollouts from a policy and give them rewards drawn from the seed."""

    def make(
        policy: TextPolicy,
        *,
        seed: int = 0,
        num_generations: int = 4,
        questions: int = 4,
        peer: str = "peer0000",
        **params: Any,
    ) -> Rollouts:
        tasks = Tasks.from_rows(
            [
                {
                    "id": f"tasks/{at}",
                    "messages": [{"role": "user", "content": question}],
                    "answer": "",
                    "metadata": "{}",
                }
                for at, question in enumerate(QUESTIONS[:questions])
            ]
        )
        settings = {"template": "{{ task.question }}", "num_generations": num_generations, "max_new_tokens": 6}
        node = Answer(**settings | params)
        rng = np.random.default_rng(seed)
        rows = node.run(tasks, policy, rng=rng, log=Log(), round=0, peer=peer)
        rewards = rng.normal(size=len(rows))
        return credit(score(rows, {"made_up": rewards}), rewards)

    return make
