"""The `nodes` command: list and describe the types that a graph may name."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from genrl_graph.contract import registry
from genrl_graph.contract.declared import Declared
from genrl_graph.contract.node import Carry, Node
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.errors import GraphError
from genrl_graph.messages import did_you_mean

RUN = "run"


@dataclass(frozen=True, slots=True)
class Param:
    """One param of a type as its field declares it; `default` is None and unused if it is `required`."""

    name: str
    annotation: Any
    required: bool
    default: Any
    constraints: tuple[str, ...]
    description: str


def params_of(cls: type[BaseModel]) -> list[Param]:
    """Return the params of a type, or of a nested set of params, in the order of declaration."""
    params = []
    for name, field in cls.model_fields.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True, validated_data={})
        constraints = tuple(_constraints(field.metadata))
        params.append(Param(name, field.annotation, required, default, constraints, field.description or ""))
    return params


def list_types() -> str:
    """Return all types by kind, each with the first line of its docstring."""
    types = registry.types()
    width = max(map(len, types), default=0)
    blocks = []
    for _, group in groupby(types.items(), key=lambda item: item[0].partition(".")[0]):
        blocks.append("".join(f"{name:<{width}}  {_first_line(cls)}\n" for name, cls in group))
    return "\n".join(blocks)


def describe_type(name: str) -> str:
    """Describe one type: docstring, inputs, outputs, resources and params; the name `run` describes run options.

    Raises `GraphError` for an unknown type.
    """
    if name == RUN:
        lines = [name, "", *(inspect.getdoc(RunConfig) or "").splitlines(), "", *_table("options", _params(RunConfig))]
        return "\n".join(lines).rstrip() + "\n"
    cls = registry.lookup(name)
    if cls is None:
        known = registry.types()
        raise GraphError(f"no type named {name!r}{did_you_mean(name, known)}; `genrl-graph nodes` lists them")
    lines = [name, "", *(inspect.getdoc(cls) or "").splitlines(), "", f"in Python: {_import_line(cls)}", ""]
    if issubclass(cls, Node):
        lines += _table("inputs", [(s.name, str(s), s.meaning) for s in cls.signature.inputs])
        lines += _table(
            "output", [(field, str(p), cls.signature.returns) for field, p in cls.signature.outputs.items()]
        )
        lines += _table("resources", [(resource, "", "") for resource in cls.signature.resources])
    elif issubclass(cls, Carry):
        edge: EdgeType = cls.edge
        lines += _table("carries", [("", str(edge), "")])
    lines += _table("params", _params(cls))
    return "\n".join(lines).rstrip() + "\n"


def _import_line(cls: type[Declared]) -> str:
    """Return the line that imports a type, from the library if it ships with the package."""
    from genrl_graph.nodes import library

    module = library.__name__ if getattr(library, cls.__name__, None) is cls else cls.__module__
    return f"from {module} import {cls.__name__}"


def _first_line(cls: type[Declared]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _params(cls: type[BaseModel]) -> list[tuple[str, str, str]]:
    rows = []
    for param in params_of(cls):
        default = "required" if param.required else f"= {param.default!r}"
        rows.append((param.name, f"{type_text(param.annotation)} {default}", param.description))
    return rows


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _constraints(metadata: list[Any]) -> Iterator[str]:
    """Yield the bounds that a field sets, such as `≥ 1`; bounds that validators check are not included."""
    for mark in metadata:
        for name, sign in _SIGNS.items():
            if (bound := getattr(mark, name, None)) is not None:
                yield f"{sign} {bound}"
        if getattr(mark, "min_length", None):
            yield "not empty" if mark.min_length == 1 else f"at least {mark.min_length} entries"


def type_text(annotation: Any, *, nested: bool = True) -> str:
    """Return a type as a person writes it: without constraints, and nested params with their keys.

    If `nested` is False, nested params are shown as `mapping`.
    """
    origin, inner = get_origin(annotation), [type_text(part, nested=nested) for part in _type_arguments(annotation)]
    if origin is Annotated:
        return inner[0]
    if origin is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if origin in (Union, UnionType):
        return " | ".join(inner)
    if origin is not None and inner:
        name = getattr(origin, "__name__", str(origin))
        return name if name == "Callable" else f"{name}[{', '.join(inner)}]"
    if annotation in (None, type(None), Ellipsis):
        return "..." if annotation is Ellipsis else "None"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        keys = (f"{name}: {type_text(field.annotation)}" for name, field in annotation.model_fields.items())
        return f"{{{', '.join(keys)}}}" if nested else "mapping"
    return getattr(annotation, "__name__", str(annotation))


def _type_arguments(annotation: Any) -> tuple[Any, ...]:
    """Return the type arguments, without the metadata of `Annotated` and the values of `Literal`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    return () if origin is Literal else arguments[:1] if origin is Annotated else arguments


def _table(title: str, rows: list[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return []
    width = max(len(row[0]) for row in rows)
    lines = [f"{title}:"]
    for name, kind, doc in rows:
        shown = f"{name:<{width}}  {kind}" if width else kind
        lines.append(f"  {shown}".rstrip() + (f"  # {doc}" if doc else ""))
    return [*lines, ""]
