"""Chats that go on token by token: what was sampled stays, and the chat template adds what it would have written."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trl

from genrl_graph import Sampling, TextPolicy, TokenSequence
from genrl_graph.contract.policy import BrokenChat
from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.turn_tokens import TurnTokens
from genrl_graph.nodes.policy.loading.stub import stub_policy
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.seeds import stream

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
MARKS = re.compile(r"<\|[^|>\s]+\|>|<｜[^｜>]+｜>|<\w+_of_\w+>|\[gMASK\]|<sop>|<turn\|>|<\|turn>")
CONTINUED = [
    "cohere",
    "deepseek_r1_distill",
    "deepseekv3",
    "gemma",
    "gemma4",
    "glm4moe",
    "gptoss",
    "lfm2",
    "llama3_1",
    "llama3_2",
    "nemotron_3_nano",
    "phi3",
    "qwen2_5",
    "qwen3",
    "qwen3_6",
    "qwen3_8",
]
Chat = list[dict[str, str]]


@cache
def words() -> Any:
    return stub_policy("policy", seed=0).hf_tokenizer


def tokens_of(template: str) -> ChatTokens:
    """A tokenizer of byte pairs that knows the special tokens that a chat template writes."""
    import copy

    tokenizer = copy.deepcopy(words())
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(MARKS.findall(template)))})
    return ChatTokens(tokenizer, chat_template=template, where="here")


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize("name", CONTINUED)
def test_templates_of_known_models_are_continued(name: str) -> None:
    tokens = tokens_of((TEMPLATES / f"{name}.jinja").read_text())
    turns = TurnTokens(tokens, ends=[tokens.end_of_turn])
    turns.prove()
    prompt = tokens.render([user("How much is 2 + 2?")])
    completion = np.asarray([*tokens.tokenizer.encode("It is 4."), tokens.end_of_turn], np.int32)
    ids = turns.extend(
        np.concatenate([prompt, completion]), [user("How much is 2 + 2?"), said("It is 4.")], [user("?!")]
    )
    assert ids[: len(prompt)].tolist() == prompt.tolist()
    assert ids[len(prompt) : len(prompt) + len(completion)].tolist() == completion.tolist()
    added = tokens.tokenizer.decode(ids[len(prompt) + len(completion) :].tolist())
    whole = tokens.text([user("How much is 2 + 2?"), said("It is 4."), user("?!")])
    assert "?!" in added and whole.endswith(added)


def test_a_completion_that_was_cut_gets_the_close_of_its_message_and_one_that_ended_keeps_its_own() -> None:
    tokens = tokens_of((TEMPLATES / "qwen2_5.jinja").read_text())
    turns, end = TurnTokens(tokens, ends=[tokens.end_of_turn, 0]), tokens.end_of_turn
    chat: Chat = [user("a"), said("b")]
    prompt, word = tokens.render([user("a")]).tolist(), tokens.tokenizer.encode("b")
    for sampled, expected in ((word, [*word, end]), ([*word, end], [*word, end]), ([*word, 0], [*word, 0])):
        ids = turns.extend(np.asarray([*prompt, *sampled], np.int32), chat, [user("c")]).tolist()
        after = ids[len(prompt) :]
        assert after[: len(expected)] == expected
        assert (
            tokens.tokenizer.decode(after[len(expected) :])
            == "\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
        )


def test_a_completion_that_begins_the_message_of_another_role_breaks_the_chat() -> None:
    template = (TEMPLATES / "glm4moe.jinja").read_text()
    tokens = tokens_of(template)
    roles = {name: tokens.tokenizer.convert_tokens_to_ids(name) for name in ("<|user|>", "<|observation|>")}
    turns = TurnTokens(tokens, ends=[tokens.end_of_turn, *roles.values()])
    prompt, word = tokens.render([user("a")]).tolist(), tokens.tokenizer.encode("b")
    chat: Chat = [user("a"), said("b")]
    ids = turns.extend(np.asarray([*prompt, *word, roles["<|user|>"]], np.int32), chat, [user("c")])
    assert tokens.tokenizer.decode(ids[len(prompt) :].tolist()).startswith("b<|user|>\nc")  # the marker stands once
    with pytest.raises(BrokenChat, match=r"ends with <.observation.>, which begins a message of another role"):
        turns.extend(np.asarray([*prompt, *word, roles["<|observation|>"]], np.int32), chat, [user("c")])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", "drops completions"),
        ("{% for m in messages[:2] %}{{ m.content }};{% endfor %}", "it drops or rewrites a message"),
        ("{% for m in messages %}{{ m.content | upper }};{% endfor %}", "it drops or rewrites a message"),
        (
            "{% for m in messages %}{{ m.content }} {{ m.content | length }};{% endfor %}",
            "it writes another text around",
        ),
        ("{% for m in messages %}{{ m.content.text }}{% endfor %}", "refuses|drops completions"),
    ],
)
def test_a_template_that_cannot_be_continued_is_refused(template: str, message: str) -> None:
    tokens = tokens_of(template)
    with pytest.raises(DataError, match=f"here: its chat template cannot be continued token by token: .*({message})"):
        TurnTokens(tokens, ends=[tokens.end_of_turn]).prove()


def test_a_template_that_writes_the_date_writes_the_same_on_any_day(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gptoss", "llama3_2"):
        text = tokens_of((TEMPLATES / f"{name}.jinja").read_text()).text([user("a")])
        assert "2026-01-01" in text or "01 Jan 2026" in text, name
    other = tokens_of('{{ strftime_now("%A") }}{{ messages[0].content }}')
    assert other.text([user("a")]) == "Thursdaya"
    assert "macro" not in other.tokenizer.chat_template  # an export has the template of the model


CHATS = {
    "plain": "{% for m in messages %}{{ m.content }}{% endfor %}",
    "roles": "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>",
    "closed": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
}


def tiny(template: str) -> TextPolicy:
    return TinyLM(chat_template=template, hidden_size=16, heads=2, layers=2).init("policy", seed=0)


@pytest.mark.parametrize("template", CHATS.values(), ids=CHATS)
def test_log_probs_of_all_turns_are_those_of_one_forward_pass_over_the_final_ids(template: str) -> None:
    policy = tiny(template)
    policy.prove_extend()
    chat: Chat = [user("state 1?")]
    ids, sampled, logprobs = policy.render(chat), [], []
    for turn in range(4):
        completion = policy.generate(
            [ids], num_generations=1, sampling=Sampling(9), rng=[stream(turn)], max_batch_tokens=4096
        )[0][0]
        sampled.append((len(ids), completion.ids))
        logprobs.append(completion.logprobs)
        spoken: Chat = [*chat, said(completion.text)]
        ids = policy.extend(np.concatenate([ids, completion.ids]), spoken, [user("and now?")])
        chat = [*spoken, user("and now?")]
    whole = policy.logprobs([TokenSequence(ids[:1], ids[1:])], temperatures=np.ones(1, np.float32))[0].detach().numpy()
    for (start, completion_ids), values in zip(sampled, logprobs, strict=True):
        assert ids[start : start + len(completion_ids)].tolist() == completion_ids.tolist()
        assert np.allclose(whole[start - 1 : start - 1 + len(completion_ids)], values, atol=1e-4)


def test_a_policy_of_another_package_says_that_it_cannot_continue() -> None:
    class Other(type(tiny(CHATS["plain"]))):  # type: ignore[misc]
        extend = TextPolicy.extend

    policy = tiny(CHATS["plain"])
    policy.__class__ = Other
    with pytest.raises(Exception, match="does not continue chats token by token; set history: template"):
        policy.extend(np.zeros(1, np.int32), [], [])
