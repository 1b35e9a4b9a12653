"""Encoding and decoding completions, and the range of ids that a policy accepts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph import TextPolicy
from genrl_graph.contract.policy import TokenSequence
from genrl_graph.errors import ParamError
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.loading.stub import CHAT, END, StubPolicy, stub_policy
from genrl_graph.nodes.policy.tiny_lm import CONTENTS, PRINTABLE, SPECIAL, TinyLM, character_tokenizer
from genrl_graph.runners.estimate.stand_ins import CountingPolicy


def tiny() -> TextPolicy:
    return TinyLM(alphabet="ab<eos>", hidden_size=8, heads=1, layers=1).init("policy", seed=0)


def stub() -> StubPolicy:
    return stub_policy("policy", seed=0)


def counting() -> TextPolicy:
    tokens = ChatTokens(character_tokenizer("ab<eos>"), chat_template=CHAT, where="here")
    return CountingPolicy("policy", tokens, context=100)


@pytest.mark.parametrize(("make", "end", "spelled"), [(tiny, 1, "<eos>"), (stub, 0, END), (counting, 1, "<eos>")])
def test_a_completion_comes_back_from_its_ids_and_the_end_token_stands_last(
    make: Callable[[], TextPolicy], end: int, spelled: str
) -> None:
    policy = make()
    for text in ("", "ab", f"a{spelled}b", spelled):
        ids, ended = policy.encode(text, ended=False), policy.encode(text, ended=True)
        assert ids.dtype == ended.dtype == np.int32
        assert end not in ids  # a special token that is spelled out is no special token
        assert ended.tolist() == [*ids.tolist(), end]
        assert policy.decode(ids.tolist()) == policy.decode(ended.tolist()) == text


@given(st.text())
def test_byte_pairs_spell_any_text(text: str) -> None:
    assert _STUB.decode(_STUB.encode(text, ended=True).tolist()) == text


_STUB = stub()


@pytest.mark.parametrize(("make", "most"), [(tiny, len(SPECIAL) + 7), (stub, len(_STUB.hf_tokenizer))])
def test_the_vocabulary_is_all_that_the_model_reads(make: Callable[[], TextPolicy], most: int) -> None:
    policy = make()
    assert policy.vocab_size == most

    def judge(id: int) -> None:
        sequence = TokenSequence(np.asarray([id], np.int32), np.asarray([id], np.int32))
        policy.logprobs([sequence], temperatures=np.ones(1, np.float32))

    judge(most - 1)
    with pytest.raises((IndexError, RuntimeError)):
        judge(most)


TURNS = "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"


def turning() -> ChatTokens:
    """A tokenizer whose template ends turns with a token that is not its end token, and that knows <think>."""
    tokenizer = character_tokenizer(PRINTABLE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<end_of_turn>", "<think>", "</think>"]})
    return ChatTokens(tokenizer, chat_template=TURNS, where="test")


def test_a_turn_ends_with_the_token_that_the_template_ends_it_with() -> None:
    tokens = turning()
    end = tokens.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert tokens.end_of_turn == end == tokens.encode("ab", ended=True)[-1]
    plain = ChatTokens(character_tokenizer(PRINTABLE), chat_template=CONTENTS, where="test")
    assert plain.end_of_turn == plain.tokenizer.eos_token_id


def test_only_end_tokens_and_padding_are_no_text() -> None:
    tokens = turning()
    ids = tokens.tokenizer.convert_tokens_to_ids(["<pad>", "<think>", "a", "</think>", "b", "<end_of_turn>", "<pad>"])
    assert tokens.texts([ids], ends=[tokens.end_of_turn]) == ["<think>a</think>b"]


QWEN = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n"
    "{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
ASK = [{"role": "user", "content": "a"}]


def formatted(**params: Any) -> ChatTokens:
    """A tokenizer that knows turns and <think>, with the params of a policy."""
    tokens = turning()
    format = TinyLM(**{"chat_template": QWEN} | params)
    return ChatTokens.of(format, tokens.tokenizer, where="test")


def test_variables_and_a_prefix_are_in_the_prompt_token_by_token() -> None:
    plain, thinking = formatted(), formatted(assistant_prefix="<think>ab")
    silent = formatted(chat_template_kwargs={"enable_thinking": False})
    start, known = plain.render(ASK).tolist(), plain.tokenizer.convert_tokens_to_ids
    assert thinking.render(ASK).tolist() == [*start, *known(["<think>", "a", "b"])]
    assert silent.render(ASK).tolist() == [*start, *known(["<think>", "</think>"])]
    assert len({tokens.fingerprint for tokens in (plain, thinking, silent)}) == 3
    assert plain.fingerprint == ChatTokens(turning().tokenizer, chat_template=QWEN, where="test").fingerprint
    whole = plain.tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_dict=False, tokenize=True)
    assert start == whole


def test_a_variable_that_the_template_does_not_read_is_refused() -> None:
    with pytest.raises(ParamError, match="test: its chat template reads no 'enable_thinkin'; leave it out"):
        formatted(chat_template_kwargs={"enable_thinkin": False})
    with pytest.raises(ParamError, match="chat_template_kwargs: tokenize is set by the policy itself"):
        TinyLM(chat_template_kwargs={"tokenize": False})


@pytest.mark.parametrize(
    ("template", "notes"),
    [
        (QWEN, []),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}<end_of_turn>{% endfor %}", ["leaves system"]),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", ["with no token"]),
        ("{{ messages[-1].content }}", ["leaves system", "with no token"]),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + QWEN, []),  # loud by itself
    ],
)
def test_what_a_template_loses_is_noted(template: str, notes: list[str]) -> None:
    found = formatted(chat_template=template).notes()
    assert len(found) == len(notes)
    assert all(phrase in note for phrase, note in zip(notes, found, strict=True))
