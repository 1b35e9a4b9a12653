"""Updates that train only in every n-th round."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph import Log, TextPolicy
from genrl_graph.errors import ParamError
from genrl_graph.nodes.update.dpo import Dpo
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.ppo import Ppo
from genrl_graph.nodes.update.sft import Sft
from genrl_graph.nodes.update.steps.cadence import due


@given(every=st.integers(1, 50), rounds=st.integers(0, 200))
def test_it_is_due_once_in_every_so_many_rounds(every: int, rounds: int) -> None:
    assert sum(due(round, every) for round in range(rounds)) == rounds // every
    assert due(every - 1, every)


@pytest.mark.parametrize("node", [Grpo(every=2, learning_rate=0.01), Sft(every=2), Dpo(every=2)])
def test_updates_of_texts_have_a_pace_too(node: Any, policy: TextPolicy, sample: Any) -> None:
    rows, before = sample(policy), policy.digest()
    log, rng = Log(), np.random.default_rng(0)
    assert node.run(policy, [rows], rng=rng, log=log, round=0, peer="peer0000") is policy
    assert policy.digest() == before and log.tables == {}
    node.run(policy, [rows], rng=rng, log=log, round=1, peer="peer0000")
    assert policy.digest() != before


def test_never_is_no_pace() -> None:
    with pytest.raises(ParamError, match="every"):
        Ppo(every=0)
