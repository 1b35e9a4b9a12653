"""What the command line says about the types that a graph may name."""

import inspect
from itertools import groupby
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from genrl_graph.contract import registry
from genrl_graph.contract.declared import Declared
from genrl_graph.contract.node import Carry, Node
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.errors import GraphError
from genrl_graph.messages import did_you_mean

RUN = "run"


def list_types() -> str:
    """All types, by kind, each with the first line of its doc."""
    types = registry.types()
    width = max(map(len, types), default=0)
    blocks = []
    for _, group in groupby(types.items(), key=lambda item: item[0].partition(".")[0]):
        blocks.append("".join(f"{name:<{width}}  {_first_line(cls)}\n" for name, cls in group))
    return "\n".join(blocks)


def describe_type(name: str) -> str:
    """One type: its doc, inputs, output, resources and params; `run` is the options of a run.

    Raises `GraphError` for an unknown one.
    """
    if name == RUN:
        lines = [name, "", *(inspect.getdoc(RunConfig) or "").splitlines(), "", *_table("options", _params(RunConfig))]
        return "\n".join(lines).rstrip() + "\n"
    cls = registry.lookup(name)
    if cls is None:
        known = registry.types()
        raise GraphError(f"no type named {name!r}{did_you_mean(name, known)}; `genrl-graph nodes` lists them")
    lines = [name, "", *(inspect.getdoc(cls) or "").splitlines(), ""]
    if issubclass(cls, Node):
        lines += _table("inputs", [(s.name, str(s), "") for s in cls.signature.inputs])
        lines += _table("output", [(field, str(p), "") for field, p in cls.signature.outputs.items()])
        lines += _table("resources", [(resource, "", "") for resource in cls.signature.resources])
    elif issubclass(cls, Carry):
        edge: EdgeType = cls.edge
        lines += _table("carries", [("", str(edge), "")])
    lines += _table("params", _params(cls))
    return "\n".join(lines).rstrip() + "\n"


def _first_line(cls: type[Declared]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _params(cls: type[BaseModel]) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in cls.model_fields.items():
        kind = _shown(field.annotation)
        default = "required" if field.default is PydanticUndefined and field.default_factory is None else ""
        if not default:
            default = f"= {field.get_default(call_default_factory=True, validated_data={})!r}"
        rows.append((name, f"{kind} {default}", field.description or ""))
    return rows


def _shown(annotation: Any) -> str:
    """A type as a person writes it: without constraints, and a nested set of params with its keys."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shown(inner[0])
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if origin in (Union, UnionType):
        return " | ".join(map(_shown, inner))
    if origin is not None and inner:
        name = getattr(origin, "__name__", str(origin))
        return name if name == "Callable" else f"{name}[{', '.join(map(_shown, inner))}]"
    if annotation in (None, type(None), Ellipsis):
        return "..." if annotation is Ellipsis else "None"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (
            f"{{{', '.join(f'{name}: {_shown(field.annotation)}' for name, field in annotation.model_fields.items())}}}"
        )
    return getattr(annotation, "__name__", str(annotation))


def _table(title: str, rows: list[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return []
    width = max(len(row[0]) for row in rows)
    lines = [f"{title}:"]
    for name, kind, doc in rows:
        shown = f"{name:<{width}}  {kind}" if width else kind
        lines.append(f"  {shown}".rstrip() + (f"  # {doc}" if doc else ""))
    return [*lines, ""]
