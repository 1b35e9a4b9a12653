"""Members of a mix: build a registered source of tasks and check its params like those of any node."""

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
    """Build a member's source with the mix's `num_tasks`; or return None and its problems, located in `members`."""
    if not _NAME.fullmatch(name):
        return None, [_problem((name,), "no name of a member; use letters, digits, _ and -", name)]
    cls = registry.lookup(type_name)
    reason = _reason_unfit(type_name, cls)
    if reason or cls is None:
        return None, [_problem((name, "type"), reason, type_name)]
    for param in SET_BY_MIX:
        if param in params:
            problem = "the mix sets this for its members; leave it out"
            return None, [_problem((name, "params", param), problem, params[param])]
    try:
        source = cls.model_validate({**params, "num_tasks": info.data.get("num_tasks", 1)}, context=info.context)
    except ValidationError as error:
        return None, list(_param_problems(name, cls, error, params))
    assert isinstance(source, Source), "_reason_unfit refuses other types"
    return source, []


def source_fields(type_name: str) -> dict[str, FieldInfo]:
    """Return the param fields of a member's type; empty for an unknown type."""
    cls = registry.lookup(type_name)
    return {} if cls is None else cls.model_fields


def raise_problems(problems: Sequence[InitErrorDetails]) -> None:
    """Raise all problems as one `ValidationError`, if there are any."""
    if problems:
        raise ValidationError.from_exception_data("members", list(problems))


def _reason_unfit(type_name: str, cls: type[Declared] | None) -> str:
    """Return the reason why a type cannot be a member; empty if it can."""
    if cls is None or not issubclass(cls, Source):
        sources = [known for known, other in registry.types().items() if issubclass(other, Source)]
        hint = did_you_mean(type_name, sources) or f"; there are {', '.join(sources)}"
        return f"no source of this name{hint}"
    output = cls.signature.outputs.get("")
    if output is None or output.bound.base is not Tasks:  # a mix would lose what a kind of tasks has besides
        return "does not give plain Tasks"
    if cls.signature.inputs:
        return "reads edges, which a member has none of"
    if "num_tasks" not in cls.model_fields:
        return "has no param num_tasks, which a mix sets"
    other = [name for name in cls.signature.resources if name not in RESOURCES]
    return f"takes the resource {other[0]!r}; a mix hands on {', '.join(RESOURCES)}" if other else ""


def _param_problems(
    name: str, cls: type[Declared], error: ValidationError, params: Mapping[str, Any]
) -> Iterator[InitErrorDetails]:
    """Yield the problems of a member's params, located within the mix."""
    problems = param_problems(cls, error, params)
    for problem in problems:
        if problem.unknown:
            yield _problem((name, "params", *problem.path), problem.text, _value_at(params, problem.path))
    paths = {problem.path for problem in problems}
    for item in error.errors(include_url=False):
        # `param_problems` omits a missing param that a misspelt one explains
        misspelt = item["type"] == "missing" and item["loc"] not in paths
        if item["type"] != "extra_forbidden" and not misspelt:
            yield InitErrorDetails(
                type=item["type"], loc=(name, "params", *item["loc"]), input=item["input"], ctx=item.get("ctx", {})
            )


def _value_at(params: Any, path: tuple[str | int, ...]) -> object:
    for step in path:
        params = params[step]
    return params


def _problem(loc: tuple[str | int, ...], text: str, value: object) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("member", text), loc=loc, input=value)
