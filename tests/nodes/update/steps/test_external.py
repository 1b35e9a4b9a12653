"""Rows of other peers in updates: old log-probs of this policy, retokenising, and hostile rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from fixture_types import Sample
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph import Log, Rollouts, TextPolicy, credit, score
from genrl_graph.nodes.policy.tiny_lm import CONTENTS, PRINTABLE, SPECIAL, TinyLM
from genrl_graph.nodes.update.dpo import Dpo
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.nodes.update.sft import Sft
from genrl_graph.nodes.update.steps.external import MAX_JOURNALED_IDS, ExternalRows
from genrl_graph.nodes.update.steps.training import prompt_digest

DIGITS = "9876543210+=?"
OWN_IDS = {token: at for at, token in enumerate([*SPECIAL, *PRINTABLE])}
END = OWN_IDS["<eos>"]
USERS_ONLY = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}" + CONTENTS


def stranger(**params: Any) -> TextPolicy:
    """Return another peer's policy."""
    return TinyLM(**{"hidden_size": 32, "layers": 1, "initializer_range": 0.2} | params).init("policy", seed=9)


def train(node: Grpo | Sft | Dpo, policy: TextPolicy, *inputs: Rollouts) -> Log:
    log = Log()
    node.run(policy, list(inputs), rng=np.random.default_rng(0), log=log, peer="peer0000")
    return log


def edited(rows: Rollouts, **columns: Any) -> Rollouts:
    """Return the rows with columns replaced, each by one value for all rows."""
    values = {name: rows.values(name) for name in rows.table.column_names}
    for name, value in columns.items():
        values[name] = [value] * len(rows)
    return Rollouts.from_columns(values, marks=rows.marks)


def logprobs(policy: TextPolicy, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Compute the log-probs of a completion in plain torch: one row, no padding."""
    logits = policy.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]  # type: ignore[attr-defined]
    return torch.log_softmax(logits.float(), -1).gather(-1, torch.tensor(completion)[:, None])[:, 0]


def by_hand(policy: TextPolicy, rows: Rollouts, old: Mapping[str, torch.Tensor], *, steps: int, rate: float) -> None:
    """Take AdamW steps on the dapo loss of all rows, in plain torch."""
    weights = list(policy.model.parameters())  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    tokens = sum(len(ids) for ids in rows.values("completion_ids"))
    for _ in range(steps):
        optimizer.zero_grad()
        for row in rows.rows("id", "prompt_ids", "completion_ids", "advantage"):
            ratio = (logprobs(policy, row["prompt_ids"], row["completion_ids"]) - old[row["id"]]).exp()
            advantage = row["advantage"]
            gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
            (-gain.sum() / tokens).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()


def flat(policy: TextPolicy) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in policy.model.parameters()])  # type: ignore[attr-defined]


def assert_moved_alike(start: torch.Tensor, one: TextPolicy, other: TextPolicy) -> None:
    step, expected = flat(one) - start, flat(other) - start
    assert expected.norm() > 0
    assert float((step - expected).norm() / expected.norm()) < 1e-3


def test_old_logprobs_are_the_own_policys_before_the_first_step_and_own_rows_keep_the_samplers(
    policy: TextPolicy, sample: Sample
) -> None:
    own = edited(sample(stranger(), seed=1), policy_version=7)  # of this peer, but the policy was another then
    foreign = sample(stranger(), seed=2, peer="peer0001")
    other, start = policy.fork("policy"), flat(policy)
    rows = Rollouts.concat([own, foreign])
    with torch.no_grad():
        old = {row["id"]: logprobs(policy, row["prompt_ids"], row["completion_ids"]) for row in foreign.rows()}
    old |= {
        id: torch.tensor(sampled.copy()) for id, sampled in zip(own.values("id"), own.ragged("logprobs"), strict=True)
    }

    log = train(Grpo(learning_rate=1e-2, epochs=2), policy, own, foreign)
    by_hand(other, rows, old, steps=2, rate=1e-2)
    assert_moved_alike(start, policy, other)
    assert log.metrics["external"] == len(foreign)
    assert log.metrics["retokenised"] == log.metrics["external_left_out"] == 0
    assert log.facts == {}


def test_the_ratio_is_exactly_one_in_the_first_of_several_steps_in_any_precision(sample: Sample) -> None:
    policy = stranger(compute_dtype="bfloat16", hidden_size=64, layers=2)
    foreign = sample(stranger(), peer="peer0001", questions=1)  # alone they are batches of other shapes
    first, second = Rollouts.concat([sample(policy, seed=1), foreign]), sample(policy, seed=2)
    log = train(Grpo(learning_rate=1e-3, steps="per_input"), policy, first, second)
    ratios = dict(zip(log.tables["trained"]["id"], log.tables["trained"]["ratio"], strict=True))
    assert policy.version == 2
    assert {ratios[id] for id in foreign.values("id")} == {1.0}


def test_rows_of_another_tokenizer_are_tokenised_again_and_said_to_be(policy: TextPolicy, sample: Sample) -> None:
    rows = sample(stranger(alphabet=DIGITS), peer="peer0001", num_generations=8)
    other, start = policy.fork("policy"), flat(policy)
    log = train(Grpo(learning_rate=1e-2), policy, rows)

    anew = [
        {
            "prompt_ids": [OWN_IDS[c] for c in row["messages"][0]["content"]],
            "completion_ids": [OWN_IDS[c] for c in row["completion"]] + [END] * (row["finish_reason"] == "stop"),
        }
        for row in rows.rows()
    ]
    assert {row["finish_reason"] for row in rows.rows()} == {"stop", "length"}
    kept = [at for at, row in enumerate(anew) if row["completion_ids"]]
    sampled = [
        row | new | {"completion_mask": [1] * len(new["completion_ids"])}
        for row, new in zip(rows.rows(), anew, strict=True)
    ]
    by_text = Rollouts.from_rows(sampled, marks=rows.marks).take(kept)
    with torch.no_grad():
        old = {row["id"]: logprobs(other, row["prompt_ids"], row["completion_ids"]) for row in by_text.rows()}
    by_hand(other, by_text, old, steps=1, rate=1e-2)
    assert_moved_alike(start, policy, other)

    trained = log.tables["trained"]
    assert set(trained["id"]) == set(by_text.values("id"))
    prompts = dict(zip(by_text.values("id"), map(prompt_digest, by_text.ragged("prompt_ids")), strict=True))
    assert dict(zip(trained["id"], trained["prompt_digest"], strict=True)) == prompts
    assert log.metrics["external"] == log.metrics["retokenised"] == len(kept)
    assert log.metrics["rows_of_another_tokenizer"] == 0
    assert log.facts["retokenised"] == by_text.values("id")[:MAX_JOURNALED_IDS]


def test_the_journal_names_so_many_and_no_more(policy: TextPolicy, sample: Sample) -> None:
    rows = sample(stranger(alphabet=DIGITS), peer="peer0001", num_generations=24)
    log = train(Grpo(), policy, rows)
    assert log.metrics["retokenised"] > MAX_JOURNALED_IDS == len(log.facts["retokenised"])


def test_a_special_token_spelled_out_in_a_strangers_text_stays_text(policy: TextPolicy, sample: Sample) -> None:
    said = edited(
        sample(stranger(), peer="peer0001").take([0]),
        tokenizer_fingerprint="other",
        completion="<eos>7",
        finish_reason="length",
    )
    (kept,) = ExternalRows(policy, peer="peer0000").fit(said).rows()
    assert kept["completion_ids"] == [OWN_IDS[c] for c in "<eos>7"]
    assert kept["tokenizer_fingerprint"] == policy.tokenizer_fingerprint


@pytest.mark.parametrize(
    ("reason", "columns"),
    [
        ("no_completion", {"completion_ids": [], "completion_mask": [], "logprobs": [], "completion": ""}),
        ("no_completion", {"completion_ids": [5], "completion_mask": [0], "logprobs": [0.0], "completion": "2"}),
        ("no_completion", {"tokenizer_fingerprint": "other", "completion": "", "finish_reason": "length"}),
        ("no_prompt", {"prompt_ids": []}),
        ("no_prompt", {"tokenizer_fingerprint": "other", "messages": []}),
        ("no_prompt", {"tokenizer_fingerprint": "other", "messages": [{"role": "root", "content": "obey"}]}),
        ("outside_vocabulary", {"completion_ids": [2**31 - 1], "completion_mask": [1], "logprobs": [0.0]}),
        ("outside_vocabulary", {"completion_ids": [len(OWN_IDS)], "completion_mask": [1], "logprobs": [0.0]}),
        ("outside_vocabulary", {"prompt_ids": [-1, 5]}),
        ("too_long", {"prompt_ids": [5] * 1024}),
        ("too_long", {"tokenizer_fingerprint": "other", "completion": "7" * 2000}),
        ("too_long", {"tokenizer_fingerprint": "other", "messages": [{"role": "user", "content": "7" * 2000}]}),
        ("temperature", {"temperature": 1e-30}),
        ("temperature", {"temperature": 1e30}),
        ("other_text", {"completion": "the right answer, which these ids do not say"}),
        ("other_text", {"tokenizer_fingerprint": "other", "completion": "\N{SNOWMAN}"}),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_left_out_counted_and_changes_nothing(
    sample: Sample, reason: str, columns: dict[str, Any]
) -> None:
    policy = TinyLM(hidden_size=32, layers=1, initializer_range=0.2, chat_template=USERS_ONLY).init("policy", seed=0)
    other, rows = policy.fork("policy"), sample(policy)
    bad = edited(sample(policy, seed=5, peer="peer0001").take([2]), **columns)
    log = train(Grpo(learning_rate=1e-2), policy, rows, bad)
    train(Grpo(learning_rate=1e-2), other, rows)
    assert policy.digest() == other.digest()
    assert log.metrics["external_left_out"] == log.metrics["left_out_rows"] == 1
    assert log.metrics["external"] == 0
    assert log.facts == {"external_left_out": {reason: 1}}


@pytest.mark.parametrize("node", [Sft(learning_rate=1e-3), Dpo(learning_rate=1e-3)], ids=["sft", "dpo"])
def test_trainers_of_trl_take_other_peers_rows_as_well(policy: TextPolicy, sample: Sample, node: Sft | Dpo) -> None:
    rows = sample(stranger(alphabet=DIGITS), peer="peer0001")
    rows = credit(score(rows, {"again": np.zeros(len(rows))}), np.zeros(len(rows)))
    bad = edited(sample(policy, peer="peer0002").take([0]), completion="something else")
    bad = credit(score(bad, {"again": [0.0]}), [0.0])
    log = train(node, policy, rows, bad)
    assert policy.version >= 1
    assert log.metrics["external"] == log.metrics["retokenised"] == log.metrics["trained_rows"] > 0
    assert log.metrics["rows_of_another_tokenizer"] == 0
    assert log.facts["external_left_out"]["other_text"] == 1
    digests = {prompt_digest(policy.render(messages)) for messages in rows.values("messages")}
    assert set(log.tables["trained"]["prompt_digest"]) <= digests


IDS = st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-1, len(OWN_IDS)), max_size=40)
ROLES = st.sampled_from(["user", "system", "assistant", "", "\x00"])
CHATS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": st.text(max_size=60)}), max_size=3)


@given(
    prompt=IDS,
    completion=IDS,
    text=st.text(max_size=60) | st.sampled_from(["", "<eos>", "12"]),
    messages=CHATS,
    tokenizer=st.booleans(),
    finish_reason=st.sampled_from(["stop", "length", "failed"]),
    temperature=st.floats(0, 2.0**127, width=32),
)
def test_whatever_a_stranger_sends_what_is_kept_can_be_trained_on(
    make_rollouts: Any,
    prompt: list[int],
    completion: list[int],
    text: str,
    messages: list[dict[str, str]],
    tokenizer: bool,
    finish_reason: str,
    temperature: float,
) -> None:
    policy = small()
    fingerprint = policy.tokenizer_fingerprint if tokenizer else "other"
    rows = make_rollouts([text], peer="peer0001", messages=[messages], prompt_ids=[prompt], completion_ids=[completion],
        completion_mask=[[1] * len(completion)], logprobs=[[-1.0] * len(completion)], finish_reason=finish_reason,
        temperature=temperature, tokenizer_fingerprint=fingerprint)  # fmt: skip
    for row in ExternalRows(policy, peer="peer0000").fit(rows).rows():
        ids = row["prompt_ids"] + row["completion_ids"]
        assert 2 <= len(ids) <= policy.context_length == 50
        assert row["prompt_ids"] and row["completion_ids"]
        assert 0 <= min(ids) <= max(ids) < policy.vocab_size
        assert row["completion"] == text == policy.decode(row["completion_ids"])
        assert row["tokenizer_fingerprint"] == policy.tokenizer_fingerprint
        assert len(row["logprobs"]) == len(row["completion_mask"]) == len(row["completion_ids"])


_SMALL: list[TextPolicy] = []


def small() -> TextPolicy:
    """Return one small policy, shared by all examples of a property test."""
    if not _SMALL:
        _SMALL.append(TinyLM(hidden_size=8, heads=1, layers=1, max_context=50).init("policy", seed=0))
    return _SMALL[0]
