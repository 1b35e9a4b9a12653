"""Read a YAML document into a graph, and collect every problem of its shape."""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from genrl_graph.contract import registry
from genrl_graph.contract.declared import Declared, param_problems, problem_text
from genrl_graph.contract.node import Wire
from genrl_graph.dag.check import check, check_data
from genrl_graph.dag.graph import NOT_WRITTEN, Graph, Part
from genrl_graph.dag.problems import Path, Problem
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.errors import GraphError, StoreError
from genrl_graph.graph_file.document import VERSION, Document, Position, parse_document
from genrl_graph.graph_file.shipped import graph_file
from genrl_graph.messages import closest, did_you_mean, renamed_input, short

_TOP = {"graph", "version", "carry", "nodes", "run"}
_CARRY = {"type", "params", "next"}
_NODE = {"type", "role", "inputs", "params"}
SCRIPT = ".py"
"""The ending of a graph that a Python script builds."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A graph as read, with its document and all its problems."""

    graph: Graph
    problems: tuple[Problem, ...]
    document: Document
    deprecated: tuple[Problem, ...] = ()

    def with_data(self) -> "Loaded":
        """Return this with what is missing of the local data that the graph names, added to its problems."""
        return replace(self, problems=(*self.problems, *check_data(self.graph)))

    def notes(self) -> list[str]:
        """Return one line per deprecated input name, with the new name."""
        return [self._line(problem, False) for problem in self.deprecated]

    def lines(self, *, caret: bool = False) -> list[str]:
        """Return the problems as `file:line:column path: text`; with `caret`, also the source line and a ^ below."""
        return [self._line(problem, caret) for problem in self.problems]

    def _line(self, problem: Problem, caret: bool) -> str:
        where = _position(self.document, problem)
        line = f"{where} {problem}"
        return f"{line}\n{where.caret()}" if caret and where.line else line


def load(path: FilePath, overrides: Sequence[str] = ()) -> Graph:
    """Load the graph of a YAML file, shipped graph name or script; raise `GraphError` with all its problems."""
    loaded = read(path, overrides)
    if loaded.problems:
        raise GraphError("\n".join(loaded.lines()))
    for note in loaded.notes():
        warnings.warn(note, FutureWarning, stacklevel=2)
    return loaded.graph


def read(path: FilePath, overrides: Sequence[str] = ()) -> Loaded:
    """Read the graph of a YAML file, shipped graph name or Python script, with every problem that a check finds."""
    from genrl_graph.graph_file.compose import load_document

    path = graph_file(path)
    if path.suffix == SCRIPT:
        return _read_script(path, overrides)
    return read_document(load_document(path, overrides), folder=path.parent)


def _read_script(path: FilePath, overrides: Sequence[str]) -> Loaded:
    """Read the graph that a Python script builds, with overrides on top; positions are those of its YAML."""
    from genrl_graph.graph_file.compose import override_document
    from genrl_graph.graph_file.script import script_graph

    graph, shown = script_graph(path), f"{path} (as YAML)"
    if overrides:
        document = override_document(parse_document(graph.dump(), file=shown), overrides)
        return read_document(document, folder=FilePath.cwd())
    return Loaded(graph, tuple(check(graph)), parse_document(graph.record(), file=shown))


def read_document(document: Document, *, folder: FilePath | None = None) -> Loaded:
    """Read the graph of a document; relative data paths are relative to `folder`."""
    reader = _Reader(folder, {path for path, at in document.keys.items() if len(path) == 2 and not at.line})
    graph = reader.graph(document.values)
    graph.settle()
    problems = dict.fromkeys((*reader.problems, *check(graph, unread=reader.unread)))
    ordered = tuple(sorted(problems, key=lambda problem: _order(document, problem)))
    return Loaded(graph, ordered, document, tuple(reader.deprecated))


def refuse_newer(values: Mapping[str, Any], path: FilePath) -> None:
    """Raise `StoreError` if the graph of a run folder has a newer version than this program reads."""
    version = values.get("version")
    if isinstance(version, int) and version > VERSION:
        raise StoreError(f"{path}: graph version {version} is newer than {VERSION}; upgrade genrl-graph")


def _position(document: Document, problem: Problem) -> Position:
    path = _as_written(document.values, problem.path)
    return document.key_at(path) if problem.at_key else document.value_at(path)


def _as_written(values: Any, path: Path) -> Path:
    """Return the path with keys as the document has them: numbers where it writes digits unquoted."""
    written: list[str | int] = []
    for step in path:
        if isinstance(values, dict) and step not in values and str(step).isdecimal() and int(step) in values:
            step = int(step)
        written.append(step)
        inside = step in values if isinstance(values, dict) else isinstance(values, list) and step in range(len(values))
        values = values[step] if inside else None
    return tuple(written)


def _order(document: Document, problem: Problem) -> tuple[int, int, int]:
    where = _position(document, problem)
    return (document.files.index(where.file) if where.file in document.files else -1, where.line, where.column)


class _Reader:
    """Reads values into parts; collects problems of their shape and the paths that could not be read.

    `overridden` are parts that only the command line names.
    """

    def __init__(self, folder: FilePath | None, overridden: Collection[Path]) -> None:
        self.problems: list[Problem] = []
        self.deprecated: list[Problem] = []
        self.unread: set[Path] = set()
        self._folder, self._overridden = folder, overridden

    def graph(self, values: Mapping[str, Any]) -> Graph:
        """Return the graph of a document's values; invalid parts are kept as far as they can be read."""
        self._known_keys((), values, _TOP)
        name = values.get("graph")
        if not isinstance(name, str):
            got = f", got {short(name)}" if "graph" in values else "; write `graph: my_game`"
            self._unreadable(("graph",), f"wants the name of the graph{got}")
        if "version" not in values:
            self._problem(("version",), f"missing; this program reads version {VERSION}: write `version: {VERSION}`")
        elif values["version"] != VERSION or isinstance(values["version"], bool):
            text = f"this program reads version {VERSION}, got {short(values['version'])}; write `version: {VERSION}`"
            self._problem(("version",), text)
        graph = Graph(name if isinstance(name, str) else "", run=self._run(values.get("run")))
        for section, parts, keys in (("carry", graph.carries, _CARRY), ("nodes", graph.nodes, _NODE)):
            for part_name, entry in self._mapping((section,), values.get(section)).items():
                if str(part_name) in parts:
                    self._problem((section, part_name), "given twice, as text and as a number; rename one", at_key=True)
                if (section, part_name) in self._overridden and not self._is_new_part(entry):
                    self._problem((section, part_name), self._unknown_part(section, part_name, values), at_key=True)
                    continue
                parts[str(part_name)] = self._part((section, part_name), entry, keys)
        return graph

    @staticmethod
    def _is_new_part(entry: Any) -> bool:
        return isinstance(entry, dict) and "type" in entry

    def _unknown_part(self, section: str, name: Any, values: Mapping[str, Any]) -> str:
        known = [str(each) for each in values[section] if (section, each) not in self._overridden]
        hint = did_you_mean(str(name), known) or f"; there are {', '.join(known) or 'none'}"
        return f"the graph has no {'node' if section == 'nodes' else section} named {str(name)!r}{hint}"

    def _run(self, values: Any) -> RunConfig:
        try:
            return RunConfig.model_validate(self._mapping(("run",), values))
        except ValidationError as error:
            for item in error.errors(include_url=False):
                path: Path = ("run", *item["loc"])
                if item["type"] == "extra_forbidden":
                    known = RunConfig.model_fields
                    hint = did_you_mean(str(path[-1]), known) or f"; it has {', '.join(known)}"
                    self._problem(path, f"unknown option {path[-1]!r}{hint}", at_key=True)
                else:
                    self._problem(path, problem_text(item))
            return RunConfig()

    def _part(self, path: Path, entry: Any, keys: set[str]) -> Part:
        name = str(path[1])
        values = self._mapping(path, entry)
        if path in self.unread:
            return Part(name, "", None, None)
        self._known_keys(path, values, keys)
        type_name, follows = values.get("type"), values.get("next") if "next" in keys else None
        params = self._mapping((*path, "params"), values.get("params"))
        inputs = dict(self._inputs((*path, "inputs"), values.get("inputs"))) if "inputs" in keys else {}
        if follows is not None and not isinstance(follows, str):
            self._unreadable((*path, "next"), f"wants the name of a node, got {short(follows)}")
            follows = None
        role = values.get("role", "") if "role" in keys else ""
        if not isinstance(role, str):
            self._unreadable((*path, "role"), f"wants the name of a role, got {short(role)}")
            role = ""
        cls = registry.lookup(type_name) if isinstance(type_name, str) else None
        if cls is None:
            if type_name is not None or (*path, "type") not in self.unread:
                self._problem((*path, "type"), self._unknown_type(type_name), at_key="type" not in values)
            return Part(name, str(type_name), None, None, inputs, follows, params, role)
        inputs = self._renamed((*path, "inputs"), cls, inputs)
        return Part(name, cls.type_name, cls, self._declared(path, cls, params), inputs, follows, params, role)

    def _renamed(self, path: Path, cls: type[Declared], inputs: Mapping[str, Wire]) -> dict[str, Wire]:
        """Return inputs with old names replaced by new ones, in the order written."""
        names = dict(cls.renamed_inputs)
        for old in [name for name in names if name in inputs]:
            if names[old] in inputs:
                self._problem(
                    (*path, old), f"is the old name of {names[old]!r}, which is given too; remove one", at_key=True
                )
                del names[old]
            else:
                self.deprecated.append(Problem((*path, old), renamed_input(old, names[old]), True))
        return {names.get(name, name): wire for name, wire in inputs.items()}

    def _declared(self, path: Path, cls: type[Declared], params: Mapping[str, Any]) -> Declared | None:
        if (*path, "params") in self.unread:
            return None
        if set(params) == {NOT_WRITTEN}:
            cause, _, _ = str(params[NOT_WRITTEN]).partition("; ")
            advice = "the script that made the graph resumes it, with play(..., resume=True)"
            self._problem((*path, "params"), f"{cause}, so this file does not have it; {advice}", at_key=True)
            return None
        try:
            return cls.model_validate(dict(params), context={"folder": self._folder})
        except ValidationError as error:
            for problem in param_problems(cls, error, params):
                text = f"{cls.type_name}: {problem.text}" if problem.unknown else problem.text
                self._problem((*path, "params", *problem.path), text, at_key=problem.at_key)
        return None

    def _inputs(self, path: Path, values: Any) -> Iterator[tuple[str, Wire]]:
        for name, wire in self._mapping(path, values).items():
            at = (*path, str(name))
            if isinstance(wire, str):
                yield str(name), wire
            elif isinstance(wire, list):
                yield str(name), tuple(ref for key, ref in enumerate(wire) if self._is_ref((*at, key), ref, at))
            elif isinstance(wire, dict):
                yield str(name), {str(key): ref for key, ref in wire.items() if self._is_ref((*at, key), ref, at)}
            else:
                self._unreadable(at, f"wants the name of a node, a list of names or names by key, got {short(wire)}")

    def _is_ref(self, path: Path, ref: Any, wire: Path) -> bool:
        if not isinstance(ref, str):
            self._unreadable(path, f"wants the name of a node, got {short(ref)}")
            self.unread.add(wire)
        return isinstance(ref, str)

    def _mapping(self, path: Path, value: Any) -> dict[Any, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._unreadable(path, f"wants `key: value` lines, got {short(value)}")
            return {}
        return value

    def _known_keys(self, path: Path, values: Mapping[str, Any], known: set[str]) -> None:
        for key in values:
            if key not in known:
                hint = did_you_mean(str(key), known) or f"; there are {', '.join(sorted(known))}"
                self._problem((*path, key), f"unknown key {key!r}{hint}", at_key=True)
                self.unread.add((*path, closest(str(key), known) or key))

    def _unknown_type(self, type_name: Any) -> str:
        if not isinstance(type_name, str):
            return "has no `type`" if type_name is None else f"wants the name of a type, got {short(type_name)}"
        known = list(registry.types())
        kind = type_name.partition(".")[0] + "."
        others = [name for name in known if name.startswith(kind)]
        hint = did_you_mean(type_name, known)
        listed = f"; types of this kind: {', '.join(others)}" if others else "; `genrl-graph nodes` lists them"
        return f"no type named {type_name!r}{hint or listed}; a type of your own needs --import FILE"

    def _problem(self, path: Path, text: str, *, at_key: bool = False) -> None:
        self.problems.append(Problem(path, text, at_key))

    def _unreadable(self, path: Path, text: str) -> None:
        self._problem(path, text)
        self.unread.add(path)
