"""Chats that go on: a turn reads what is new, and samples what it would have sampled from its whole prompt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import Log, Sampling, Tasks
from genrl_graph.contract import registry
from genrl_graph.edge_types.turns import Turns
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.seeds import stream

registry.import_file(Path(__file__).parents[3] / "text_games.py")
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


def tiny(**params: Any) -> CausalPolicy:
    small = {"chat_template": CHAT, "hidden_size": 16, "heads": 2, "layers": 2, "initializer_range": 0.5}
    policy = TinyLM(**small | params).init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    return policy


def played(policy: CausalPolicy, **params: Any) -> Turns:
    metadata = [json.dumps({"environment": {"kind": "text", "id": "guess"}, "seed": seed}) for seed in range(4)]
    tasks = Tasks.from_rows(
        [{"id": f"tasks/{at}", "messages": [], "answer": "", "metadata": text} for at, text in enumerate(metadata)]
    )
    node = DialogueGenerator(**{"max_new_tokens": 5, "max_turns": 4, "num_generations": 3, "stop": ("a",)} | params)
    rows: Turns = node.run(tasks, policy, rng=stream(0), log=Log(), round=0, peer="p")
    return rows


@pytest.mark.parametrize(
    "params", [{}, {"num_envs": 5}, {"max_batch_tokens": 256}, {"repetition_penalty": 1.5}, {"top_k": 9}]
)
def test_a_session_changes_nothing_but_the_tokens_that_are_read(params: dict[str, Any]) -> None:
    policy = tiny()
    whole, rest = played(policy, session_mb=0, **params), played(policy, **params)
    assert whole.values("completion_ids") == rest.values("completion_ids")
    assert whole.values("id") == rest.values("id")
    for before, after in zip(whole.ragged("logprobs"), rest.ragged("logprobs"), strict=True):
        assert np.allclose(before, after, atol=1e-5)
    assert len({len(ids) for ids in whole.ragged("completion_ids")}) > 1, "rows of a batch end at different times"


def complete(policy: CausalPolicy, prompts: list[Any]) -> list[Any]:
    sampling = Sampling(4)
    rngs = [stream(at) for at in range(len(prompts))]
    rows = policy.generate(prompts, num_generations=1, sampling=sampling, rng=rngs, max_batch_tokens=4096)
    return [np.concatenate([prompt, row.ids]) for prompt, (row,) in zip(prompts, rows, strict=True)]


def test_a_turn_reads_only_what_is_new_of_chats_of_any_length() -> None:
    policy = tiny()
    first = [policy.render([{"role": "user", "content": text}]) for text in ("a", "a", "much longer than that", "b")]
    with policy.keeping(2**20):
        session = policy._session
        assert session is not None
        ids = complete(policy, first)
        assert (session.read, session.reused) == (sum(map(len, first)), 0)
        more = policy.encode("\n<user>and now?\n<assistant>", ended=False)
        second = [*(np.concatenate([row, more]) for row in ids), policy.render([{"role": "user", "content": "new"}])]
        complete(policy, second)
        assert session.reused == sum(len(row) - 1 for row in ids), "all but the last token of each, which was not fed"
        assert len({row.tobytes() for row in ids}) == len(session._pasts) - 1
    assert policy._session is None


def test_a_session_stays_within_its_memory() -> None:
    policy = tiny()
    one = policy.render([{"role": "user", "content": "x"}])
    token = 2 * 2 * 16 * 4  # keys and values of two layers, 16 float32 each
    with policy.keeping(token * 2 * (len(one) + 4)):
        session = policy._session
        assert session is not None
        for text in "abcdef":
            complete(policy, [policy.render([{"role": "user", "content": text}])])
            assert session._bytes == sum(past.bytes for past in session._pasts.values()) <= session._max_bytes
        assert len(session._pasts) == 2


def test_weights_that_change_are_read_anew() -> None:
    policy = tiny()
    prompt = policy.render([{"role": "user", "content": "x"}])
    with policy.keeping(2**20):
        (ids,) = complete(policy, [prompt])
    with policy.keeping(2**20):
        complete(policy, [np.concatenate([ids, prompt])])
        assert policy._session is not None and policy._session.reused == 0
