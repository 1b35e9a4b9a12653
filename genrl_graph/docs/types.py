"""The reference of what a graph may name: one page a kind, each type with its inputs, output and params."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

import genrl_graph
from genrl_graph.cli.types import Param, params_of, type_text
from genrl_graph.contract import registry
from genrl_graph.contract.declared import Declared
from genrl_graph.contract.node import KINDS, Carry, Node, PolicyCarry
from genrl_graph.contract.tool import Tool
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.docs.markdown import code, code_block, in_cell, linked_papers, table
from genrl_graph.edge_types.edge_type import EdgeType, Socket
from genrl_graph.edge_types.frame import Frame

SHORT_DEFAULT = 40
"""Defaults of more characters, such as prompt templates, stand in full below the table."""


@cache
def shipped_types() -> Mapping[str, type[Declared]]:
    """Return the types that ship with the project, by name; those of imported scripts are left out."""
    package = __name__.partition(".")[0]
    return {name: cls for name, cls in registry.types().items() if cls.__module__.partition(".")[0] == package}


def kinds() -> Mapping[str, Sequence[type[Declared]]]:
    """Return the shipped types by kind, in the order in which a round meets them; `carry` and `policy` come first."""
    by_kind = {
        kind: [shipped_types()[name] for name in names]
        for kind, names in groupby(shipped_types(), key=lambda name: name.partition(".")[0])
    }
    known = dict.fromkeys([PolicyCarry.kind, Carry.kind, *(cls.kind for cls in KINDS)])
    return {kind: by_kind[kind] for kind in [*known, *(by_kind.keys() - known.keys())] if kind in by_kind}


def type_index() -> str:
    """Return the tables of all shipped types, a table a kind, with links to their pages."""
    parts = []
    for kind, classes in kinds().items():
        rows = [(_linked(cls), in_cell(_summary(cls))) for cls in classes]
        parts.append(f"## {kind}\n\n{_kind_summary(kind)}\n\n{table(('Type', 'What it does'), rows)}")
    return "\n".join(parts)


def kind_page(kind: str, games: Mapping[str, Sequence[str]]) -> str:
    """Return the page of a kind; `games` has the names of the shipped games that use a type."""
    classes = kinds()[kind]
    head = f"# {kind}\n\n{_kind_summary(kind)}\n"
    return "\n".join([head, *(_type_section(cls, games.get(cls.type_name, ())) for cls in classes)])


def run_options() -> str:
    """Return the table of the options that a graph file may set under `run:`."""
    return _params_table("Option", RunConfig)


def _linked(cls: type[Declared]) -> str:
    return f"[`{cls.type_name}`]({cls.kind}.md#{cls.type_name})"


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n\n")[0]


def _kind_summary(kind: str) -> str:
    """Return what nodes of a kind are for, in the words of its class; policies are carries and forks of them."""
    bases: tuple[type[Declared], ...] = (PolicyCarry, Carry, *KINDS, Tool)
    return next((linked_papers(_summary(base)) for base in bases if base.kind == kind), "")


def _type_section(cls: type[Declared], games: Sequence[str]) -> str:
    parts = [f"## {cls.type_name} {{: #{cls.type_name} }}", linked_papers(inspect.getdoc(cls) or "")]
    if imported := _import_line(cls):
        parts.append(f"In Python: {imported}")
    if issubclass(cls, Node):
        parts += [_inputs_table(cls), *_outputs(cls)]
    elif issubclass(cls, Carry):
        parts.append(f"**Carries** {_edge(cls.edge, str(cls.edge))}")
    parts += [_params_table("Param", cls), *_long_defaults(cls)]
    if games:
        links = ", ".join(f"[{name}](../games/{name}.md)" for name in games)
        parts.append(f"**Used in** {links}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _inputs_table(cls: type[Node]) -> str:
    rows = [(f"`{socket.name}`", _socket(socket), in_cell(socket.meaning)) for socket in cls.signature.inputs]
    return table(("Input", "Type", "Meaning"), rows)


def _outputs(cls: type[Node]) -> Iterator[str]:
    """Yield the output and what `run` says of it; several outputs as a table and a paragraph."""
    outputs = {field: _edge(pattern.bound, str(pattern)) for field, pattern in cls.signature.outputs.items()}
    if "" in outputs:
        yield f"**Output** {outputs['']}: {linked_papers(cls.signature.returns)}".removesuffix(": ")
    else:
        yield table(("Output", "Type"), [(f"`{field}`", edge) for field, edge in outputs.items()])
        yield linked_papers(cls.signature.returns)


def _socket(socket: Socket) -> str:
    return _edge(socket.pattern.bound, str(socket).removesuffix(" (optional)")) + (", optional" * socket.optional)


def _edge(edge: EdgeType, text: str) -> str:
    """Return the text of an edge type with a link to the columns, or the methods, of its base class."""
    base = edge.base
    if issubclass(base, Frame) and base.columns:
        return f"[{code(text)}](../edge_types.md#{base.__name__})"
    if base.__name__ in genrl_graph.__all__:
        return f"[{code(text)}](../python.md#{genrl_graph.__name__}.{base.__name__})"
    return code(text)


def _import_line(cls: type[Declared]) -> str:
    from genrl_graph.nodes import library

    exported = getattr(library, cls.__name__, None) is cls
    return f"`from {library.__name__} import {cls.__name__}`" if exported else ""


def _params_table(what: str, cls: type[BaseModel]) -> str:
    rows = [_param_row(path, param) for path, param in _params(cls)]
    return table((what, "Type", "Default", "Meaning"), rows)


def _param_row(path: str, param: Param) -> tuple[str, str, str, str]:
    bounds = f"<br>{', '.join(param.constraints)}" if param.constraints else ""
    return f"`{path}`", f"{_type_cell(param.annotation)}{bounds}", _default_cell(param), in_cell(param.description)


def _default_cell(param: Param) -> str:
    if param.required:
        return "*required*"
    return code(_yaml(param.default)) if _is_short(param.default) else "*see below*"


def _type_cell(annotation: Any) -> str:
    """Return a type with its choices apart, as a graph file has them."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_cell(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_type_cell, inner))
    if origin is Literal:
        return ", ".join(code(_yaml(choice)) for choice in inner)
    return code("null" if annotation is type(None) else type_text(annotation, nested=False))


def _params(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Param]]:
    """Yield the params by path; those of a nested set stand below it as `environment.id` or `tasks[].answer`."""
    for param in params_of(cls):
        path = prefix + param.name
        yield path, param
        for step, model in _models_in(param.annotation):
            yield from _params(model, f"{path}{step}.")


def _models_in(annotation: Any, step: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield step, annotation
    elif origin in (Annotated, Union, UnionType):
        for part in inner:
            yield from _models_in(part, step)
    elif origin in (list, tuple, Sequence) and inner:
        yield from _models_in(inner[0], f"{step}[]")
    elif origin in (dict, Mapping):
        yield from _models_in(inner[1], f"{step}.<name>")


def _is_short(default: Any) -> bool:
    return len(_yaml(default)) <= SHORT_DEFAULT


def _yaml(value: Any) -> str:
    """Return a default as a graph file has it: JSON is YAML."""
    plain = to_jsonable_python(value, fallback=repr)
    return plain if isinstance(plain, str) and plain.isidentifier() else json.dumps(plain, ensure_ascii=False)


def _long_defaults(cls: type[BaseModel]) -> Iterator[str]:
    for param in params_of(cls):
        if not (param.required or _is_short(param.default)):
            text = param.default if isinstance(param.default, str) else _yaml(param.default)
            language = "jinja" if "{{" in text else "text"
            yield f"Default of `{param.name}`:\n\n{code_block(text, f'{{ .{language} .prose }}')}"
