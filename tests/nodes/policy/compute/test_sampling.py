from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from genrl_graph.contract.policy import Completion, Sampling, TokenSequence
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.policy.compute.distribution import choose
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.kv_cache import cache_argument
from genrl_graph.nodes.policy.compute.sampling import token_batches
from genrl_graph.nodes.policy.tiny_lm import TinyLM

EOS = 1
PEAKED = causal(TinyLM(alphabet="ab", initializer_range=0.3).init("peaked", seed=3))
WIDE = causal(TinyLM(initializer_range=0.2).init("wide", seed=0))


def prompts(policy: CausalPolicy, *texts: str) -> list[NDArray[np.int32]]:
    return [policy.render([{"role": "user", "content": text}]) for text in texts]


def generate(
    policy: CausalPolicy,
    rows: list[NDArray[np.int32]],
    *,
    count: int = 1,
    seed: int = 0,
    budget: int = 10**9,
    **sampling: Any,
) -> list[list[Completion]]:
    rng = np.random.default_rng(seed)
    options = Sampling(**{"max_new_tokens": 12, **sampling})
    return policy.generate(rows, num_generations=count, sampling=options, rng=rng, max_batch_tokens=budget)


def ids(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[row.ids.tolist() for row in rows] for rows in completions]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_completions_follow_the_exact_distribution(temperature: float) -> None:
    prompt = prompts(PEAKED, "ab")[0]
    drawn = generate(PEAKED, [prompt], count=40_000, max_new_tokens=2, temperature=temperature)[0]
    counts = Counter(tuple(row.ids.tolist()) for row in drawn)
    possible = [(EOS,), *(pair for pair in product(range(5), repeat=2) if pair[0] != EOS)]
    sequences = [TokenSequence(prompt, np.array(pair, np.int32)) for pair in possible]
    with torch.no_grad():
        logprobs = PEAKED.logprobs(sequences, temperatures=np.full(len(possible), temperature, np.float32))
    expected = logprobs.sum(1).exp().numpy().astype(np.float64)
    assert expected.sum() == pytest.approx(1.0, abs=1e-5)
    observed, predicted = np.array([counts[pair] for pair in possible]), expected / expected.sum() * 40_000
    rare = predicted < 10  # too few for the statistic one by one
    pooled = [np.append(values[~rare], values[rare].sum()) for values in (observed, predicted)]
    assert chisquare(*pooled).pvalue > 1e-3
    assert counts.total() == observed.sum()


def test_top_p_keeps_the_smallest_set_and_its_proportions() -> None:
    probs = np.array([0.05, 0.4, 0.2, 0.3, 0.05])
    logits = torch.tensor(np.log(probs)).float().expand(20000, 5)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20000, dtype=np.float32))
    token, logprob, *_ = choose(logits, uniforms, Sampling(1, top_p=0.65))
    counts = np.bincount(token.numpy(), minlength=5)
    assert counts[[0, 2, 4]].sum() == 0
    assert chisquare(counts[[1, 3]], 20000 * np.array([4, 3]) / 7).pvalue > 1e-3
    np.testing.assert_allclose(logprob.numpy(), np.log(probs / 0.7)[token.numpy()], atol=1e-5)


def test_top_p_of_a_flat_distribution_over_many_tokens() -> None:
    logits = torch.zeros(3000, 5000)
    logits[:, :2500] = 1.0  # more tokens in the nucleus than are sought first
    uniforms = torch.from_numpy(np.random.default_rng(0).random(3000, dtype=np.float32))
    token, *_ = choose(logits, uniforms, Sampling(1, top_p=0.7))
    assert int(token.max()) < 2500
    assert len(token.unique()) > 1500


def test_a_token_without_mass_is_never_chosen() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, 5)
    token, *_ = choose(logits, torch.tensor([0.0, 0.5, 1.0]), Sampling(1))
    assert token.tolist() == [1, 3, 3]


def test_completions_end_with_the_end_token_or_at_the_limit() -> None:
    rows = generate(PEAKED, prompts(PEAKED, "a", "abba"), count=50, max_new_tokens=6)
    flat = [row for completions in rows for row in completions]
    assert {row.finish_reason for row in flat} == {"stop", "length"}
    for row in flat:
        assert EOS not in row.ids[:-1].tolist()
        assert (row.ids[-1] == EOS) == (row.finish_reason == "stop")
        assert row.finish_reason == "stop" or len(row.ids) == 6
        assert len(row.ids) == len(row.logprobs)
        assert row.text == PEAKED.decode(row.ids.tolist())


def test_equal_draws_give_equal_completions_and_others_others() -> None:
    chats = prompts(WIDE, "1+1=", "seven")
    assert ids(generate(WIDE, chats, count=3)) == ids(generate(WIDE, chats, count=3))
    assert ids(generate(WIDE, chats, count=3)) != ids(generate(WIDE, chats, count=3, seed=1))


def test_equal_prompts_get_different_completions() -> None:
    first, second = ids(generate(WIDE, prompts(WIDE, "1+1=", "1+1="), count=2))
    assert first != second


@pytest.mark.parametrize("budget", [1, 60, 200])
def test_batches_do_not_change_completions(budget: int) -> None:
    chats = prompts(PEAKED, "a", "abbabbabba", "ba", "abbb")
    whole, split = (generate(PEAKED, chats, count=5, budget=b) for b in (10**9, budget))
    assert ids(whole) == ids(split)
    for one, other in zip(whole, split, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_each_distinct_prompt_is_read_once_and_finished_rows_leave() -> None:
    shapes = []
    hook = PEAKED.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        rows = generate(PEAKED, prompts(PEAKED, "abab", "b", "abab"), count=20, max_new_tokens=30)
    finally:
        hook.remove()
    assert shapes[0] == (2, 4)
    running = [sum(len(row.ids) > step for completions in rows for row in completions) for step in range(1, 30)]
    assert {length for _, length in shapes[1:]} == {1}
    for (count, _), needed in zip(shapes[1:], running, strict=False):
        assert needed <= count <= max(needed / 0.8, needed + 1)


@pytest.mark.parametrize("policy", [PEAKED, WIDE])
def test_greedy_equals_transformers_on_left_padded_prompts(policy: CausalPolicy) -> None:
    texts = ["a", "abbaab", "bab"]
    chats = prompts(policy, *texts)
    width = max(map(len, chats))
    rows = torch.tensor([[0] * (width - len(p)) + p.tolist() for p in chats])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in chats])
    model: Any = policy.model
    expected = model.generate(rows, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
    for row, completion in zip(expected[:, width:].tolist(), generate(policy, chats, temperature=0.0), strict=True):
        length = len(completion[0].ids)
        assert completion[0].ids.tolist() == row[:length]
        assert set(row[length:]) <= {0}


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(NodeFailed, match="a prompt has no tokens"):
        generate(WIDE, [np.empty(0, np.int32)])


def test_log_probs_that_are_not_finite_stop_the_run() -> None:
    broken = WIDE.fork("broken")
    with torch.no_grad():
        next(iter(broken.model.parameters())).fill_(torch.nan)
    with pytest.raises(NodeFailed, match="log-probs are not finite"):
        generate(broken, prompts(broken, "a"), count=2)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 400))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    sizes = np.array(lengths, np.int64)
    batches = list(token_batches(sizes, budget))
    assert sorted(at for batch in batches for at in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * sizes[batch].max() <= budget


def test_a_cache_goes_by_the_name_that_a_model_gives_it() -> None:
    class Renamed(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, cache: object = None, **rest: object) -> None: ...

    class OfBefore(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, past_key_values: object = None, **rest: object) -> None: ...

    assert cache_argument(Renamed(), None) == {"cache": None}
    assert cache_argument(OfBefore(), None) == {"past_key_values": None}
