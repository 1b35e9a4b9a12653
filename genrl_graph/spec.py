"""The YAML spelling of a graph: reading it into parts (with every problem of its shape) and dumping it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import ValidationError

from genrl_graph import registry
from genrl_graph.check import Path, Problem, check
from genrl_graph.document import Document, Position
from genrl_graph.errors import GraphError
from genrl_graph.graph import Graph, Part
from genrl_graph.node import Wire, param_problems
from genrl_graph.run_config import RunConfig

VERSION = 1
_TOP = {"graph", "version", "carry", "nodes", "run"}
_CARRY = {"type", "params", "next"}
_NODE = {"type", "inputs", "params"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A graph as read and all its problems, each with a place in the document."""

    graph: Graph
    problems: tuple[Problem, ...]
    document: Document

    def lines(self, *, caret: bool = False) -> list[str]:
        """The problems as `file:line:column path: text`, with the source line and a caret below if asked for."""
        return [self._line(problem, caret) for problem in self.problems]

    def _line(self, problem: Problem, caret: bool) -> str:
        where = _position(self.document, problem)
        line = f"{where} {_shown(problem.path)}: {problem.text}"
        return f"{line}\n{where.caret()}" if caret and where.line else line


def load(path: FilePath, overrides: Sequence[str] = ()) -> Graph:
    """The graph of a YAML file; raises `GraphError` with all its problems."""
    loaded = read(path, overrides)
    if loaded.problems:
        raise GraphError("\n".join(loaded.lines()))
    return loaded.graph


def read(path: FilePath, overrides: Sequence[str] = ()) -> Loaded:
    """The graph of a YAML file with every problem that a check finds."""
    from genrl_graph.compose import load_document

    return read_document(load_document(path, overrides), folder=path.parent)


def read_document(document: Document, *, folder: FilePath | None = None) -> Loaded:
    """The graph of a document; relative data paths are relative to `folder`."""
    reader = _Reader(folder)
    graph = reader.graph(document.values)
    broken = {problem.path[:2] for problem in reader.problems}
    problems = [p for p in check(graph) if not (p.path[:2] in broken and "missing" in p.text)]
    ordered = sorted(dict.fromkeys((*reader.problems, *problems)), key=lambda p: _order(document, p))
    return Loaded(graph, tuple(ordered), document)


def _position(document: Document, problem: Problem) -> Position:
    return document.key_at(problem.path) if problem.at_key else document.value_at(problem.path)


def _order(document: Document, problem: Problem) -> tuple[int, int, int]:
    where = _position(document, problem)
    return (document.files.index(where.file) if where.file in document.files else -1, where.line, where.column)


def dump(graph: Graph) -> str:
    """The YAML of a graph, byte-stable; raises `ParamError` where a param has no YAML form."""
    top: dict[str, Any] = {"graph": graph.name, "version": VERSION}
    if graph.carries:
        top["carry"] = {name: _dump_part(part) for name, part in graph.carries.items()}
    top["nodes"] = {name: _dump_part(part) for name, part in graph.nodes.items()}
    run = graph.run.model_dump(exclude_defaults=True)
    if run:
        top["run"] = run
    text: str = yaml.dump(top, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Writes numbers such as 1e-6 so that YAML 1.1 readers take them for numbers, and never an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _float)


def _dump_part(part: Part) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": part.type_name}
    if part.inputs:
        entry["inputs"] = {name: _dump_wire(wire) for name, wire in part.inputs.items()}
    params = dict(part.params())
    if params:
        entry["params"] = params
    if part.next is not None:
        entry["next"] = part.next
    return entry


def _dump_wire(wire: Wire) -> Any:
    if isinstance(wire, str):
        return wire
    return dict(wire) if isinstance(wire, Mapping) else list(wire)


def _shown(path: Path) -> str:
    """The key path as users speak of it: `nodes.final.critiques` for an input."""
    parts = [
        part for at, part in enumerate(path) if not (at == 2 and path[0] == "nodes" and part == "inputs" and path[3:])
    ]
    return ".".join(map(str, parts)) or "graph"


class _Reader:
    """Reads values into parts and collects what is wrong with their shape."""

    def __init__(self, folder: FilePath | None) -> None:
        self.problems: list[Problem] = []
        self._folder = folder

    def graph(self, values: Mapping[str, Any]) -> Graph:
        self._known_keys((), values, _TOP)
        name = values.get("graph")
        if not isinstance(name, str) or not name:
            self._problem(("graph",), f"wants the name of the graph, got {name!r}")
        if values.get("version") != VERSION:
            text = f"this program reads version {VERSION}, got {values.get('version')!r}"
            self._problem(("version",) if "version" in values else (), f"{text}; write `version: {VERSION}`")
        graph = Graph(str(name or ""), run=self._run(values.get("run") or {}))
        for section, parts, keys in (("carry", graph.carries, _CARRY), ("nodes", graph.nodes, _NODE)):
            for part_name, entry in self._mapping((section,), values.get(section)).items():
                parts[str(part_name)] = self._part((section, part_name), entry, keys)
        return graph

    def _run(self, values: Any) -> RunConfig:
        try:
            return RunConfig.model_validate(self._mapping(("run",), values))
        except ValidationError as error:
            for item in error.errors(include_url=False):
                path: Path = ("run", *item["loc"])
                if item["type"] == "extra_forbidden":
                    known = RunConfig.model_fields
                    hint = registry.did_you_mean(str(path[-1]), known) or f"; it has {', '.join(known)}"
                    self._problem(path, f"unknown option {path[-1]!r}{hint}", at_key=True)
                else:
                    self._problem(path, f"{item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}")
            return RunConfig()

    def _part(self, path: Path, entry: Any, keys: set[str]) -> Part:
        values = self._mapping(path, entry)
        self._known_keys(path, values, keys)
        name, type_name = str(path[1]), values.get("type")
        params = self._mapping((*path, "params"), values.get("params"))
        inputs = dict(self._inputs((*path, "inputs"), values.get("inputs")))
        follows = values.get("next")
        if follows is not None and not isinstance(follows, str):
            self._problem((*path, "next"), f"wants the name of a node, got {follows!r}")
            follows = None
        cls = registry.lookup(type_name) if isinstance(type_name, str) else None
        if cls is None:
            self._problem((*path, "type") if "type" in values else path, self._unknown_type(type_name))
            return Part(name, str(type_name), None, None, inputs, follows, params)
        declared = None
        try:
            declared = cls.model_validate(dict(params), context={"folder": self._folder})
        except ValidationError as error:
            for inner, text in param_problems(cls, error):
                self._problem((*path, "params", *inner), text, at_key="unknown param" in text)
        return Part(name, cls.type_name, cls, declared, inputs, follows, params)

    def _inputs(self, path: Path, values: Any) -> Iterator[tuple[str, Wire]]:
        for name, wire in self._mapping(path, values).items():
            if isinstance(wire, str):
                yield str(name), wire
            elif isinstance(wire, list) and all(isinstance(ref, str) for ref in wire):
                yield str(name), tuple(wire)
            elif isinstance(wire, dict) and all(isinstance(ref, str) for ref in wire.values()):
                yield str(name), {str(key): ref for key, ref in wire.items()}
            else:
                self._problem((*path, name), f"wants the name of a node, a list of names or names by key, got {wire!r}")

    def _mapping(self, path: Path, value: Any) -> dict[Any, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._problem(path, f"wants `key: value` lines, got {value!r}")
            return {}
        return value

    def _known_keys(self, path: Path, values: Mapping[str, Any], known: set[str]) -> None:
        for key in values:
            if key not in known:
                hint = registry.did_you_mean(str(key), known) or f"; there are {', '.join(sorted(known))}"
                self._problem((*path, key), f"unknown key {key!r}{hint}", at_key=True)

    def _unknown_type(self, type_name: Any) -> str:
        if type_name is None:
            return "has no `type`"
        known = list(registry.types())
        kind = str(type_name).partition(".")[0] + "."
        others = [name for name in known if name.startswith(kind)]
        hint = registry.did_you_mean(str(type_name), known)
        listed = f"; types of this kind: {', '.join(others)}" if others else "; `genrl-graph nodes` lists them"
        return f"no type named {type_name!r}{hint or listed}"

    def _problem(self, path: Path, text: str, *, at_key: bool = False) -> None:
        self.problems.append(Problem(path, text, at_key))
