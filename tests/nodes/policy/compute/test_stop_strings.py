"""Completions end with the token that completes a stop string, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
from architectures import causal
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.contract.policy import Completion, Sampling
from genrl_graph.nodes.policy.compute.stop_strings import StopStrings
from genrl_graph.nodes.policy.loading.stub import stub_policy
from genrl_graph.nodes.policy.tiny_lm import TinyLM

POLICY = causal(TinyLM(alphabet="ab</>", initializer_range=0.3).init("policy", seed=3))
PROMPTS = [POLICY.render([{"role": "user", "content": text}]) for text in ("ab", "<a>")]
STUB: Any = stub_policy("stub", seed=0)


def generate(**sampling: Any) -> list[Completion]:
    rows = POLICY.generate(
        PROMPTS,
        num_generations=40,
        sampling=Sampling(20, **sampling),
        rng=np.random.default_rng(0),
        max_batch_tokens=10**6,
    )
    return [row for group in rows for row in group]


def test_a_completion_ends_where_its_text_first_contains_a_stop_string() -> None:
    stop = ("</", "aab")
    free, stopped = generate(), generate(stop=stop)
    cut = 0
    for whole, row in zip(free, stopped, strict=True):
        assert row.ids.tolist() == whole.ids[: len(row.ids)].tolist()  # what was sampled, unchanged
        np.testing.assert_allclose(row.logprobs, whole.logprobs[: len(row.ids)], atol=1e-6)
        assert row.text == POLICY.decode(row.ids.tolist())
        assert not any(text in POLICY.decode(row.ids[:-1].tolist()) for text in stop)
        if any(text in row.text for text in stop):
            cut += len(row.ids) < len(whole.ids)
            assert row.finish_reason == "stop"
        else:
            assert row.ids.tolist() == whole.ids.tolist()
            assert row.finish_reason == whole.finish_reason
    assert cut >= 5


@given(
    st.lists(st.integers(0, 400), max_size=30),
    st.lists(st.text("ab #é\n", min_size=1, max_size=4), min_size=1, max_size=2),
)
def test_the_tail_of_a_row_is_enough_to_find_them(ids: list[int], strings: list[str]) -> None:
    silent = STUB.tokens.silent([STUB.hf_tokenizer.eos_token_id])
    stops = StopStrings(strings, STUB.decode, rows=1, silent=silent)
    for end, id in enumerate(ids, start=1):
        contains = any(string in STUB.decode(ids[:end]) for string in strings)
        assert stops.ends(0, id) == contains or id in silent
        if contains:
            break


@pytest.mark.parametrize("stop", ["####", "answer>"])
def test_canned_replies_of_dry_play_end_there_too(stop: str) -> None:
    rows = STUB.generate(
        [np.array([1], np.int32)],
        num_generations=40,
        sampling=Sampling(60, stop=(stop,)),
        rng=np.random.default_rng(0),
        max_batch_tokens=1,
    )[0]
    texts = [row.text for row in rows if stop in row.text]
    assert texts
    assert all(stop not in STUB.decode(row.ids[:-1].tolist()) for row in rows)
    assert {row.finish_reason for row in rows if stop in row.text} == {"stop"}
