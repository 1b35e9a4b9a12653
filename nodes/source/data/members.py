"""What may be a member of a mix: a registered source of tasks, its params checked like those of any node."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from genrl_graph.contract import registry
from genrl_graph.contract.declared import Declared, param_problems
from genrl_graph.contract.node import Source
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.messages import did_you_mean

SET_BY_MIX = ("num_tasks", "shared")
RESOURCES = ("rng", "round")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def member_source(
    name: str, type_name: str, params: Mapping[str, Any], info: ValidationInfo
) -> tuple[Source | None, list[InitErrorDetails]]:
    """The source of a member that gives as many tasks as the mix; or None, and what is wrong, placed in `members`."""
    if not _NAME.fullmatch(name):
        return None, [_problem((name,), "no name of a member; use letters, digits, _ and -", name)]
    cls = registry.lookup(type_name)
    reason = _unfit(type_name, cls)
    if reason or cls is None:
        return None, [_problem((name, "type"), reason, type_name)]
    for param in SET_BY_MIX:
        if param in params:
            text = "the mix sets this for its members; leave it out"
            return None, [_problem((name, "params", param), text, params[param])]
    try:
        source = cls.model_validate({**params, "num_tasks": info.data.get("num_tasks", 1)}, context=info.context)
    except ValidationError as error:
        return None, list(_within(name, cls, error, params))
    assert isinstance(source, Source), "others are unfit"
    return source, []


def source_fields(type_name: str) -> dict[str, FieldInfo]:
    """The params of a member's type; none where there is no such type."""
    cls = registry.lookup(type_name)
    return {} if cls is None else cls.model_fields


def raise_problems(problems: Sequence[InitErrorDetails]) -> None:
    """Raises them all as one `ValidationError`, if there are any."""
    if problems:
        raise ValidationError.from_exception_data("members", list(problems))


def _unfit(type_name: str, cls: type[Declared] | None) -> str:
    """Why a type cannot be a member; empty if it can."""
    if cls is None or not issubclass(cls, Source):
        sources = [known for known, other in registry.types().items() if issubclass(other, Source)]
        hint = did_you_mean(type_name, sources) or f"; there are {', '.join(sources)}"
        return f"no source of this name{hint}"
    given = cls.signature.outputs.get("")
    if given is None or not issubclass(given.bound.base, Tasks):
        return "does not give Tasks"
    if cls.signature.inputs:
        return "reads edges, which a member has none of"
    if "num_tasks" not in cls.model_fields:
        return "has no param num_tasks, which a mix sets"
    other = [name for name in cls.signature.resources if name not in RESOURCES]
    return f"takes the resource {other[0]!r}; a mix hands on {', '.join(RESOURCES)}" if other else ""


def _within(
    name: str, cls: type[Declared], error: ValidationError, params: Mapping[str, Any]
) -> Iterator[InitErrorDetails]:
    """The problems of a member's params, at their place within the mix."""
    told = param_problems(cls, error, params)
    for problem in told:
        if problem.unknown:
            yield _problem((name, "params", *problem.path), problem.text, _value_at(params, problem.path))
    kept = {problem.path for problem in told}
    for item in error.errors(include_url=False):
        misspelt = item["type"] == "missing" and item["loc"] not in kept
        if item["type"] != "extra_forbidden" and not misspelt:
            yield InitErrorDetails(
                type=item["type"], loc=(name, "params", *item["loc"]), input=item["input"], ctx=item.get("ctx", {})
            )


def _value_at(params: Any, path: tuple[str | int, ...]) -> object:
    for step in path:
        params = params[step]
    return params


def _problem(loc: tuple[str | int, ...], text: str, given: object) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("member", text), loc=loc, input=given)
