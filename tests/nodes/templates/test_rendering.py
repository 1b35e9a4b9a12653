"""Templates of strangers cost seconds at most: hostile ones end with one line, and others render as Jinja does."""

import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from genrl_graph.errors import ParamError
from genrl_graph.nodes.generate.critique import TEMPLATE as CRITIQUE
from genrl_graph.nodes.generate.prompting.prompts import AskedTask, Quoted, check_template, fill
from genrl_graph.nodes.generate.revise import TEMPLATE as REVISE
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.loading.stub import CHAT
from genrl_graph.nodes.policy.tiny_lm import CONTENTS, PRINTABLE, character_tokenizer
from genrl_graph.nodes.reward.llm_judge.judge_prompt import TEMPLATE as JUDGE
from genrl_graph.nodes.templates import rendering
from genrl_graph.nodes.templates.cost import has_bounded_cost
from genrl_graph.nodes.worker.worker_pool import shared_pool

TASK = AskedTask("t", "What is it?", {"level": 3, "tags": ["a", "b"]}, [{"role": "user", "content": "What is it?"}])
ANSWERS = [Quoted(at, f" the answer {at} ", f"peer{at}", f"id{at}") for at in (1, 2, 3)]
CHAT_MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What is 6 x 7?"},
    {"role": "assistant", "content": "42\n"},
    {"role": "user", "content": "Sure?"},
]
DOUBLED = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
NESTED = "{% set ns = namespace(x=[0]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
DOMAIN = "{% for i in range(99999) %}"

ENDLESS = {
    "nested ranges": f"{DOMAIN * 3}{{% endfor %}}{{% endfor %}}{{% endfor %}}",
    "nested loops over one input": "{% for a in task.question %}" * 12 + "{% endfor %}" * 12,
    "a number of many digits": "{{ 3 ** (10 ** 9) % 7 }}",
    "a macro that calls itself twice": "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(40) }}",
    "a recursive loop": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 40 }}{% endfor %}",
    "nested filters": "{{ range(99999) | map('string') | sum(start='') if false else '' }}"
    + f"{DOMAIN}{{{{ range(99999) | list | length }}}}{{% endfor %}}",
    "a shared list compared": NESTED + "{% set y = ns.x %}" + NESTED + "{{ ns.x == y }}",
}
HUGE = {
    "a repeated text": "{{ 'a' * 3000000000 }}",
    "a repeated list": "{{ ([0] * 1000000000) | length }}",
    "a doubled text": DOUBLED + "{{ ns.x | length }}",
    "a width of %": "{{ '%1000000000d' % 1 }}",
    "a width of format": "{{ '{:>999999999}'.format(1) }}",
    "a precision of format": "{{ '{:.999999999f}'.format(1.5) }}",
    "a width of the filter format": "{{ '%999999999s' | format(1) }}",
    "the filter center": "{{ 'a' | center(999999999) }}",
    "the filter indent": "{{ ('a\n' * 1000) | indent(9999999) }}",
    "the method ljust": "{{ 'a'.ljust(999999999) }}",
    "the method zfill": "{{ '1'.zfill(999999999) }}",
    "the method expandtabs": "{{ '\t'.expandtabs(999999999) }}",
    "replace with a long text": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "the filter replace": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "join with a long text": "{{ range(99999) | join('b' * 99999) }}",
    "bytes of a number": "{{ (1).to_bytes(1999999999, 'big') | length }}",
    "long filler text": "{{ lipsum(n=99999, min=9999, max=99999) }}",
    "a wide batch": "{{ [1] | batch(999999999, 0) | list | length }}",
    "indented JSON": "{{ task.metadata | tojson(indent=999999999) }}",
    "translated characters": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
}
TOO_MUCH = r"takes more than (0\.5 s|\d+ MiB)|MemoryError|OverflowError|ValueError|it gives \d+ characters"


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "TIMEOUT_S", 0.5)


@pytest.fixture(scope="module", autouse=True)
def workers_end() -> Iterator[None]:
    yield
    shared_pool.cache_clear()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", [*ENDLESS, *HUGE])
def test_a_hostile_prompt_template_ends_within_its_limits_with_one_line(name: str) -> None:
    template = (ENDLESS | HUGE)[name]
    before, began = peak_bytes(), time.monotonic()
    check_template(template, None)
    with pytest.raises(ParamError, match=rf"^answer\.template: task 't': .*({TOO_MUCH})") as error:
        fill(template, TASK, {}, where="answer")
    assert time.monotonic() - began < 10  # the start of a worker included
    assert peak_bytes() - before < 2**27
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["nested ranges", "a doubled text"])
def test_a_hostile_chat_template_too(name: str) -> None:
    tokens = ChatTokens(character_tokenizer(PRINTABLE), chat_template=(ENDLESS | HUGE)[name], where="model 'm'")
    for use in (lambda: tokens.render(CHAT_MESSAGES[1:2]), lambda: tokens.end_of_turn):
        with pytest.raises(ParamError, match=rf"^model 'm': its chat template.*({TOO_MUCH})"):
            use()


DEEP = {
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "attributes": "{{ task" + ".metadata" * 5000 + " }}",
    "conditions": "{% if task %}" * 3000 + "{% endif %}" * 3000,
    "negations": "{{ " + "not " * 5000 + "1 }}",
    "sums": "{{ 1" + " + 1" * 5000 + " }}",
    "filters": "{{ 1" + " | string" * 5000 + " }}",
    "length": "{# " + "x" * rendering.MOST_SOURCE + " #}",
}


@pytest.mark.parametrize("name", DEEP)
def test_a_template_that_is_too_deep_is_refused_before_a_run(name: str) -> None:
    with pytest.raises(ValueError, match=r"^the template (is nested too deeply|has \d+ characters)"):
        check_template(DEEP[name], None)
    tokens = ChatTokens(character_tokenizer(PRINTABLE), chat_template=DEEP[name], where="model 'm'")
    with pytest.raises(ParamError, match=r"^model 'm': its chat template"):
        tokens.render(CHAT_MESSAGES[1:2])


PROMPTS = {
    "critique": CRITIQUE,
    "revise": REVISE,
    "judge": JUDGE,
    "an attribute": "{{ task.metadata.level }} {{ task.metadata }} {{ task.messages[-1]['content'] }}",
    "a slice": "{% for a in answers[1:] %}{{ loop.index }} {{ a.number ~ a.peer | upper }}{% else %}none{% endfor %}",
    "arithmetic": "{% set n = answers | length %}{{ n * 2 + 1 }} {{ answers | map(attribute='id') | join(', ') }}",
    "a macro": "{% macro m(a) %}<{{ a.completion | trim }}>{% endmacro %}{% for a in answers %}{{ m(a) }}{% endfor %}",
}
VALUES: dict[str, Any] = {"answers": ANSWERS, "critiques": [], "answer": "42", "completion": "so 42", "mark": "abc"}
VALUES |= {"low": "0", "high": "10"}


@pytest.mark.parametrize("name", PROMPTS)
def test_other_templates_render_as_plain_jinja(name: str) -> None:
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(PROMPTS[name])
    assert fill(PROMPTS[name], TASK, VALUES, where="answer") == plain.render(task=TASK, **VALUES)


CHATS = {
    "contents": CONTENTS,
    "turns": CHAT,
    "ChatML": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}",
    "a namespace": "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- set ns.n = ns.n + 1 -%}"
    "{{ bos_token ~ ns.n ~ m.role.upper() + m.content.split('\n')[0] + eos_token }}{%- endfor -%}",
    "a generation block": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m | tojson }}{% endif %}{% endfor %}",
    "a break": "{% for m in messages %}{{ m.content }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("name", CHATS)
def test_chats_have_the_ids_that_transformers_gives_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # a machine under load may take longer than the limit of the hostile ones
    tokenizer = character_tokenizer(PRINTABLE)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    ids = ChatTokens(tokenizer, chat_template=CHATS[name], where="here").render(CHAT_MESSAGES)
    assert ids.tolist() == tokenizer.apply_chat_template(CHAT_MESSAGES, add_generation_prompt=True, return_dict=False)


def test_templates_of_the_library_cost_no_process() -> None:
    values = {"task": vars_of(TASK), "messages": CHAT_MESSAGES, **VALUES, "answers": [vars_of(row) for row in ANSWERS]}
    assert all(has_bounded_cost(source, values) for source in (CRITIQUE, REVISE, JUDGE, CONTENTS, CHAT))
    assert not has_bounded_cost(CONTENTS, {"messages": [{"content": "x" * 10**6}] * 100})


def vars_of(row: AskedTask | Quoted) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__slots__}


def test_what_a_template_raises_is_named() -> None:
    with pytest.raises(ParamError, match=r"^n\.template: task 't': UndefinedError: 'dict object' has no"):
        fill("{{ task.metadata.no }}", TASK, {}, where="n")
    with pytest.raises(ParamError, match=r"^n\.template: task 't': SecurityError: access to attribute '__class__'"):
        fill("{{ ''.__class__.__mro__ }}", TASK, {}, where="n")
    with pytest.raises(ParamError, match=r"^n\.template: task 't': TypeError: "):
        fill("{{ 1 + 'a' * 2 }}", TASK, {}, where="n")
