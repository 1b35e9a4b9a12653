"""Merge files and overrides into one document, and keep the source position of every value."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from genrl_graph.errors import GraphError, ParamError
from genrl_graph.graph_file.document import Document, Path, Position

Origin = Callable[[Path], tuple[Position, Position]]
"""A function from a path to the source positions of its key and value."""


def dotted(path: Path) -> str:
    """Return the path as overrides write it: `nodes.answer.params`."""
    return ".".join(map(str, path))


def kind(value: object) -> str:
    """Return a value's kind for messages: "a mapping", "a list", or the scalar itself."""
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else "null" if value is None else repr(value)


@dataclass(slots=True)
class Draft:
    """A document being merged; later values override earlier ones."""

    values: dict[Any, Any] = field(default_factory=dict)
    positions: dict[Path, Position] = field(default_factory=dict)
    keys: dict[Path, Position] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document) -> "Draft":
        """Return a draft that starts as this document; it takes over the document's values without a copy."""
        return cls(document.values, dict(document.positions), dict(document.keys))

    def merge(self, document: Document, package: Path) -> None:
        """Merge a file at its package (Hydra's key path for it): mappings merge, other values replace."""
        top = document.positions[()]
        depth = len(package)

        def origin(path: Path) -> tuple[Position, Position]:
            if len(path) <= depth:  # this file does not write the keys of its package; an earlier file may
                return self.keys.get(path, top), self.positions.get(path, top)
            return document.keys[path[depth:]], document.positions[path[depth:]]

        values: dict[Any, Any] = {k: v for k, v in document.values.items() if k != "defaults"}
        for key in reversed(package):
            values = {key: values}
        self._merge(self.values, values, (), origin)

    def _merge(self, target: dict[Any, Any], values: dict[Any, Any], at: Path, origin: Origin) -> None:
        for key, value in values.items():
            path = (*at, key)
            if value == "???" and key in target:  # Hydra's mark of a value that another file must give
                continue
            old = target.get(key)
            if {type(old), type(value)} == {dict, list}:
                here, there = origin(path)[0], self.keys[path]
                fault = f"'{dotted(path)}' is {kind(value)} here and {kind(old)} at {there}"
                raise (GraphError if here.line else ParamError)(f"{here}: {fault}; write both alike")
            self.put(target, path, value, origin)

    def put(self, target: dict[Any, Any], path: Path, value: Any, origin: Origin) -> None:
        """Set the value of the path's last key in `target`, merging a mapping into a mapping."""
        old = target.get(path[-1])
        self.keys[path], self.positions[path] = origin(path)
        if isinstance(value, dict) and isinstance(old, dict):
            self._merge(old, value, path, origin)
            return
        self._forget_below(path, old)
        target[path[-1]] = self._copy(value, path, origin)

    def _copy(self, value: Any, path: Path, origin: Origin) -> Any:
        """Return an independent copy, because one file may be merged at two places."""
        self.keys[path], self.positions[path] = origin(path)
        if isinstance(value, dict):
            return {key: self._copy(child, (*path, key), origin) for key, child in value.items()}
        if isinstance(value, list):
            return [self._copy(child, (*path, i), origin) for i, child in enumerate(value)]
        return value

    def discard(self, path: Path) -> None:
        """Remove a key and its value; do nothing if its parent lacks the key. The parent path must exist."""
        parent: Any = self.values
        for key in path[:-1]:
            parent = parent[key]
        if path[-1] in parent:
            self._forget_below(path, parent.pop(path[-1]))
            del self.keys[path], self.positions[path]

    def _forget_below(self, path: Path, value: Any) -> None:
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, child in children:
            self._forget_below((*path, key), child)
            del self.keys[(*path, key)], self.positions[(*path, key)]

    def finish(self, files: tuple[str, ...]) -> Document:
        """Return the merged document."""
        return Document(self.values, MappingProxyType(self.positions), files, MappingProxyType(self.keys))
