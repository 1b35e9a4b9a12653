"""Prompt templates: sandboxed Jinja over a task and quoted rollouts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes

from genrl_graph.errors import ParamError
from genrl_graph.nodes.templates.rendering import MOST_SOURCE, TemplateFailed, render
from genrl_graph.nodes.templates.syntax import parsed, variables

ANSWERS = """\
{{ task.question }}

Students gave these answers.
{% for answer in answers %}

Student #{{ answer.number }}:
{{ answer.completion | trim }}
{% endfor %}
"""
"""First part of templates that quote `answers` as those of numbered students."""


@dataclass(frozen=True, slots=True)
class AskedTask:
    """The variable `task` of a template; the reference answer is not part of it."""

    id: str
    question: str
    metadata: dict[str, Any]
    messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Quoted:
    """An upstream rollout as a template sees it; `number` counts the quoted rollouts of a task and input from 1.

    `prompt` is the last message that the rollout itself answered; it is "" for a template that does not read it.
    """

    number: int
    completion: str
    peer: str
    id: str
    prompt: str = ""


def check_template(template: str, names: Collection[str] | None) -> None:
    """Raise `ValueError` for invalid syntax, unknown attributes of `task` such as `task.answer`, and unknown variables.

    `names` are the variables allowed besides `task`, such as the names of quoted inputs; None allows all.
    """
    if len(template) > MOST_SOURCE:
        raise ValueError(f"the template has {len(template)} characters; at most {MOST_SOURCE} are read")
    try:
        tree = parsed(template)
        read = variables(tree)
        accesses = list(tree.find_all(nodes.Getattr))
    except TemplateError as error:
        line = getattr(error, "lineno", 1)
        raise ValueError(f"line {line} of the template is not valid Jinja: {error}") from error
    except RecursionError as error:
        raise ValueError("the template is nested too deeply; split its expressions") from error
    if names is not None and (unknown := sorted(read - {"task", *names})):
        raise ValueError(f"the template reads {unknown[0]!r}; it may read {', '.join(['task', *names])}")
    known = [field.name for field in fields(AskedTask)]
    for access in accesses:
        if isinstance(access.node, nodes.Name) and access.node.name == "task" and access.attr not in known:
            raise ValueError(f"the template reads task.{access.attr}; a task shows {', '.join(known)}")


@lru_cache(maxsize=64)
def _read(template: str) -> frozenset[str]:
    return frozenset(variables(parsed(template)))


def template_names(template: str) -> set[str]:
    """Return the names of the variables of a template that `check_template` passed, without `task`."""
    return variables(parsed(template)) - {"task"}


@lru_cache(maxsize=64)
def reads_prompts(template: str) -> bool:
    """Return whether a template reads the prompt of a quoted row."""
    return any(access.attr == "prompt" for access in parsed(template).find_all(nodes.Getattr))


def fill(template: str, task: AskedTask, shown: Mapping[str, object], *, where: str) -> str:
    """Render a template with `task` and the variables in `shown`; raises `ParamError` if it fails or has no end."""
    if not template:
        return ""
    known = {"task": task, **shown}
    values = {name: known[name] for name in known.keys() & _read(template)}  # the others would be copied and measured
    try:
        return render("prompt", template, values)
    except TemplateFailed as error:
        raise ParamError(f"{where}.template: task {task.id!r}: {error}") from error
