"""Chat prompts from templates: sandboxed Jinja over a task and the rollouts that it quotes."""

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
"""The beginning of a prompt that quotes `answers` as those of numbered students."""

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True, slots=True)
class AskedTask:
    """What a template sees of a task as `task`; the reference answer stays hidden."""

    id: str
    question: str
    metadata: dict[str, Any]
    messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Quoted:
    """What a template sees of an upstream rollout; `number` counts the quoted rollouts of a task from 1."""

    number: int
    completion: str
    peer: str
    id: str


def check_template(template: str, names: Collection[str] | None) -> None:
    """Raise `ValueError` for wrong syntax, for `task.answer` and the like, and for other variables than `names`.

    `names` are those of the variables besides `task`, such as quoted rollouts; None allows all.
    """
    try:
        tree = _ENVIRONMENT.parse(template)
    except TemplateError as error:
        line = getattr(error, "lineno", 1)
        raise ValueError(f"line {line} of the template is no Jinja: {error}") from error
    if names is not None and (unknown := sorted(_variables(tree) - {"task", *names})):
        raise ValueError(f"the template reads {unknown[0]!r}; it may read {', '.join(['task', *names])}")
    known = [field.name for field in fields(AskedTask)]
    for found in tree.find_all(nodes.Getattr):
        if isinstance(found.node, nodes.Name) and found.node.name == "task" and found.attr not in known:
            raise ValueError(f"the template reads task.{found.attr}; a task shows {', '.join(known)}")


def template_names(template: str) -> set[str]:
    """The variables of a template besides `task`."""
    return _variables(_ENVIRONMENT.parse(template)) - {"task"}


def _variables(tree: nodes.Template) -> set[str]:
    return set(find_undeclared_variables(tree)) - set(_ENVIRONMENT.globals)


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.from_string(template)


def fill(template: str, task: AskedTask, shown: Mapping[str, object], *, where: str) -> str:
    """The text of a prompt; `shown` are the further variables. Raises `ParamError` where it reads what is not there."""
    try:
        return _compiled(template).render(task=task, **shown)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ParamError(f"{where}.template: task {task.id!r}: {type(error).__name__}: {error}") from error
