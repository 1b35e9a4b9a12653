"""Prompt templates: sandboxed Jinja over a task and quoted rollouts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from genrl_graph.errors import ParamError

ANSWERS = """\
{{ task.question }}

Students gave these answers.
{% for answer in answers %}

Student #{{ answer.number }}:
{{ answer.completion | trim }}
{% endfor %}
"""
"""First part of templates that quote `answers` as those of numbered students."""

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True, slots=True)
class AskedTask:
    """The variable `task` of a template; the reference answer is not part of it."""

    id: str
    question: str
    metadata: dict[str, Any]
    messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Quoted:
    """An upstream rollout as a template sees it; `number` counts the quoted rollouts of a task and input from 1."""

    number: int
    completion: str
    peer: str
    id: str


def check_template(template: str, names: Collection[str] | None) -> None:
    """Raise `ValueError` for invalid syntax, unknown attributes of `task` such as `task.answer`, and unknown variables.

    `names` are the variables allowed besides `task`, such as the names of quoted inputs; None allows all.
    """
    try:
        tree = _ENVIRONMENT.parse(template)
    except TemplateError as error:
        line = getattr(error, "lineno", 1)
        raise ValueError(f"line {line} of the template is not valid Jinja: {error}") from error
    if names is not None and (unknown := sorted(_variables(tree) - {"task", *names})):
        raise ValueError(f"the template reads {unknown[0]!r}; it may read {', '.join(['task', *names])}")
    known = [field.name for field in fields(AskedTask)]
    for access in tree.find_all(nodes.Getattr):
        if isinstance(access.node, nodes.Name) and access.node.name == "task" and access.attr not in known:
            raise ValueError(f"the template reads task.{access.attr}; a task shows {', '.join(known)}")


def template_names(template: str) -> set[str]:
    """Return the names of a template's variables, without `task`."""
    return _variables(_ENVIRONMENT.parse(template)) - {"task"}


def _variables(tree: nodes.Template) -> set[str]:
    return set(find_undeclared_variables(tree)) - set(_ENVIRONMENT.globals)


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.from_string(template)


def fill(template: str, task: AskedTask, shown: Mapping[str, object], *, where: str) -> str:
    """Render a template with `task` and the variables in `shown`; raises `ParamError` if rendering fails."""
    try:
        return _compiled(template).render(task=task, **shown)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ParamError(f"{where}.template: task {task.id!r}: {type(error).__name__}: {error}") from error
