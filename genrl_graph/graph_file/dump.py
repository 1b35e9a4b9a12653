"""Write a graph as YAML, byte-stable."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from genrl_graph.contract.node import Wire
from genrl_graph.dag.graph import Graph, Part, Section
from genrl_graph.errors import ParamError
from genrl_graph.graph_file.document import VERSION


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """A YAML writer without aliases.

    Numbers such as 1e-6 stay numbers to YAML 1.1 readers, and texts such as "1e-6" stay texts to our reader.
    """

    def ignore_aliases(self, data: object) -> bool:
        """Return True: repeated values are written out."""
        return True


def dump(graph: Graph, *, params: Callable[[Part], Mapping[str, Any]] = Part.params) -> str:
    """Return the YAML of a graph, byte-stable; raise `ParamError` if a param has no YAML form."""
    top: dict[str, Any] = {"graph": graph.name, "version": VERSION}
    if graph.carries:
        top["carry"] = {name: _dump_part("carry", part, params) for name, part in graph.carries.items()}
    top["nodes"] = {name: _dump_part("nodes", part, params) for name, part in graph.nodes.items()}
    run = graph.run.model_dump(exclude_defaults=True)
    if run:
        top["run"] = run
    text: str = yaml.dump(top, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return text


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    text = repr(value) if math.isfinite(value) else f".{value!r}".replace(".-", "-.")
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=_style(value))


def _style(text: str) -> str | None:
    """Return the YAML style of a text: a block for plain lines, quotes for texts that would read as another value."""
    lines = text.split("\n")
    if not all(map(str.isprintable, lines)):
        return '"'
    if len(lines) > 1:
        return "|" if lines[0][:1].strip() and all(line == line.rstrip() for line in lines) else '"'
    try:
        float(text.replace("_", ""))
    except ValueError:
        return None
    return "'"


def _dump_part(section: Section, part: Part, read: Callable[[Part], Mapping[str, Any]]) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": part.type_name}
    if part.role:
        entry["role"] = part.role
    if part.inputs:
        entry["inputs"] = {name: _dump_wire(wire) for name, wire in part.inputs.items()}
    try:
        params = dict(read(part))
    except ParamError as error:
        raise ParamError(f"{section}.{part.name}: {error}") from error
    if params:
        entry["params"] = params
    if part.next is not None:
        entry["next"] = part.next
    return entry


def _dump_wire(wire: Wire) -> Any:
    if isinstance(wire, str):
        return wire
    return dict(wire) if isinstance(wire, Mapping) else list(wire)


_Dumper.add_representer(float, _float)


_Dumper.add_representer(str, _text)
