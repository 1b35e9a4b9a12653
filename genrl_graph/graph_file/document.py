"""Parse YAML text into plain values, with the source position of each."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import yaml

from genrl_graph.errors import GraphError

Path = tuple[str | int, ...]
"""Keys and list indices from the top of a document down to one value."""

MAX_DEPTH = 100
"""Values nested deeper than this are refused."""

MAX_COPIES = 50_000
"""A text whose aliases and merges repeat more values than this is refused."""

VERSION = 1
SHOWN_WIDTH = 160
"""Most characters of a source line that an error shows."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a source; line and column start at 1, and are 0 for the command line."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else f"{self.file}: {self.text}"

    def caret(self) -> str:
        """Return the source line, of a long one the part around the column, and below it a ^ under the column."""
        at = max(self.column - 1, 0)
        start = max(at - SHOWN_WIDTH // 2, 0) if len(self.text) > SHOWN_WIDTH else 0
        before = self.text[start:at]
        shown = self.text[start : start + SHOWN_WIDTH]
        return f"{shown}\n{''.join(c if c == chr(9) else ' ' for c in before)}^"


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values, the position of every value and key, and the files that they came from."""

    values: dict[str, Any]
    positions: Mapping[Path, Position]
    files: tuple[str, ...]
    keys: Mapping[Path, Position] = field(default_factory=dict)

    def key_at(self, path: Path) -> Position:
        """Return the position of a key or list item, or of its nearest written parent."""
        return self._nearest(self.keys, path)

    def value_at(self, path: Path) -> Position:
        """Return the position of a value, or of its nearest written parent."""
        return self._nearest(self.positions, path)

    def _nearest(self, index: Mapping[Path, Position], path: Path) -> Position:
        while path and path not in index:
            path = path[:-1]
        return index[path] if path else self.positions[()]


def parse_document(text: str, *, file: str, empty_ok: bool = False) -> Document:
    """Parse the values and positions of one YAML text; nothing is composed, interpolated or executed.

    Scalars resolve as in OmegaConf, except that numbers are decimal: 0x1F, 007 and 12:30 are text. Aliases give
    independent copies. Raises `GraphError`
    (`file:line:column: fault; advice`) for text that is not YAML, is not a mapping, is empty (unless `empty_ok`),
    repeats a key, has a key that is neither text nor a whole number, or has a tag beyond plain YAML.
    """
    return _Reader(text, file).document(empty_ok=empty_ok)


_WHOLE = r"(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
_INT = re.compile(rf"[-+]?{_WHOLE}$")
_FLOAT = re.compile(
    rf"(?:[-+]?{_WHOLE}(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
    r"|\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


def _make_loader() -> Any:
    """Return PyYAML's safe loader (the C one if available) with decimal numbers only.

    YAML 1.1 also reads numbers by base and by colon: 12:30 as 750, 0123 as 83. Here these are text, as in YAML 1.2.
    """
    loader: Any = type("GraphLoader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})
    replaced = [f"tag:yaml.org,2002:{name}" for name in ("timestamp", "value", "int", "float")]
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in replaced]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }
    loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return loader


_LOADER = _make_loader()
_TEXT_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "merge"))
_SCALAR_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))
_MERGE_TAG = "tag:yaml.org,2002:merge"


class _Reader:
    """Walks one composed node tree and collects its values and positions."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text.removeprefix("\ufeff")
        self.file = file
        self.lines = self.text.splitlines()
        self.positions: dict[Path, Position] = {}
        self.keys: dict[Path, Position] = {}
        self.open: set[int] = set()  # ids of the enclosing nodes: an alias to one is a circle
        self.seen: set[int] = set()
        self.copies = 0
        self.entries: dict[int, dict[str | int, tuple[Any, Any]]] = {}  # by id of the mapping's node

    def document(self, *, empty_ok: bool) -> Document:
        """Return the document of the whole text."""
        root = self._compose()
        if root is None:
            if not empty_ok:
                raise self._error(1, 1, "the file is empty; write at least the keys 'graph' and 'nodes'")
            return Document({}, {(): self._position(1, 1)}, (self.file,))
        if not isinstance(root, yaml.MappingNode):
            raise self._error_at(root, "not a mapping at the top; write keys such as 'graph:' and 'nodes:'")
        values = self._value(root, ())
        return Document(values, MappingProxyType(self.positions), (self.file,), MappingProxyType(self.keys))

    def _compose(self) -> Any:
        """Return the root node, or None for an empty text."""
        try:
            self.text.encode()
            self._refuse_deep_text(self.text)
            self.loader = _LOADER(self.text)
            return self.loader.get_single_node()
        except UnicodeEncodeError as error:
            raise self._error_index(error.start, "half a surrogate pair; remove it") from error
        except yaml.reader.ReaderError as error:
            code = error.character if isinstance(error.character, int) else ord(error.character)
            fault = f"the character U+{code:04X} is not allowed in YAML; remove it or write it as an escape"
            raise self._error_index(self.text.find(chr(code)), fault) from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            # PyYAML scans ahead: the text before its error may already be too deep, which is the better message
            with suppress(yaml.MarkedYAMLError):
                self._refuse_deep_text(self.text[: mark.index])
            fault = ", ".join(" ".join(part.split()) for part in (error.context, error.problem) if part)
            raise self._error(mark.line + 1, mark.column + 1, f"{fault}; mend the YAML here") from error

    def _refuse_deep_text(self, text: str) -> None:
        """Refuse deeply nested text before composing it, because composing recurses in C and overflows the stack."""
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise self._too_deep(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _value(self, node: Any, path: Path) -> Any:
        mark = node.start_mark
        self.positions[path] = self._position(mark.line + 1, mark.column + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._enter(node, path)
        value: Any
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "tag:yaml.org,2002:seq")
            value = [self._item(child, (*path, i)) for i, child in enumerate(node.value)]
        else:
            value = self._mapping(node, path)
        self.open.remove(id(node))
        return value

    def _enter(self, node: Any, path: Path) -> None:
        if id(node) in self.open:
            raise self._error_at(node, "an alias leads back to this value; write it without the circle")
        if len(path) >= MAX_DEPTH:
            raise self._too_deep(node)
        if id(node) in self.seen:
            self.copies += len(node.value) + 1
            if self.copies > MAX_COPIES:
                raise self._error_at(node, f"aliases repeat more than {MAX_COPIES} values; write fewer of them")
        self.seen.add(id(node))
        self.open.add(id(node))

    def _item(self, node: Any, path: Path) -> Any:
        value = self._value(node, path)
        self.keys[path] = self.positions[path]
        return value

    def _mapping(self, node: Any, path: Path) -> dict[str | int, Any]:
        values: dict[str | int, Any] = {}
        for key, (key_node, value_node) in self._entries(node).items():
            mark = key_node.start_mark
            self.keys[(*path, key)] = self._position(mark.line + 1, mark.column + 1)
            values[key] = self._value(value_node, (*path, key))
            if not path and not isinstance(key, str):
                raise self._error_at(key_node, f"the key {key} at the top is a number; quote it")
        return values

    def _entries(self, node: Any) -> dict[str | int, tuple[Any, Any]]:
        """Return key and value nodes by key: first those merged in by `<<`, then the mapping's own.

        A mapping's own key wins over a merged one wherever `<<` stands, and of several merged mappings the first wins
        (https://yaml.org/type/merge.html). PyYAML's own reading of `<<` differs from release to release.
        """
        if id(node) in self.entries:
            return self.entries[id(node)]
        self._check_tag(node, "tag:yaml.org,2002:map")
        own: dict[str | int, tuple[Any, Any]] = {}
        merged: dict[str | int, tuple[Any, Any]] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                for source in self._merge_sources(value_node):
                    merged |= self._merged_entries(source)
                continue
            key = self._key(key_node)
            if key in own:
                first = own[key][0].start_mark
                fault = f"the key '{key}' is given twice, first at {self.file}:{first.line + 1}:{first.column + 1}"
                raise self._error_at(key_node, f"{fault}; keep one of them")
            own[key] = (key_node, value_node)
        self.entries[id(node)] = merged | own
        return self.entries[id(node)]

    def _merged_entries(self, source: Any) -> dict[str | int, tuple[Any, Any]]:
        if id(source) in self.open:
            raise self._error_at(source, "a merge (<<) leads back to this value; write it without the circle")
        self.open.add(id(source))
        entries = self._entries(source)
        self.open.remove(id(source))
        return entries

    def _merge_sources(self, node: Any) -> Iterator[Any]:
        """Yield the mappings that a `<<` names in reverse order, so that the first one wins."""
        for source in reversed(node.value) if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                raise self._error_at(source, "<< merges mappings only; name an anchor of a mapping")
            yield source

    def _key(self, node: Any) -> str | int:
        key = self._scalar(node) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            shown = f"'{node.value}'" if isinstance(node, yaml.ScalarNode) else "of several values"
            raise self._error_at(node, f"the key {shown} reads as {_kind(key, node)}, not as text; quote it")
        return key

    def _scalar(self, node: Any) -> Any:
        if node.tag in _TEXT_TAGS:
            return node.value
        self._check_tag(node, *_SCALAR_TAGS)
        try:
            return self.loader.construct_object(node)
        except (ValueError, KeyError) as error:
            kind = node.tag.rsplit(":", 1)[-1]
            raise self._error_at(node, f"'{node.value[:40]}' is no {kind}; quote it to keep it text") from error

    def _check_tag(self, node: Any, *allowed: str) -> None:
        if node.tag not in allowed:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._error_at(node, f"the tag {tag} is not allowed; write plain values")

    def _position(self, line: int, column: int) -> Position:
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return Position(self.file, line, column, text)

    def _too_deep(self, place: Any) -> GraphError:
        return self._error_at(place, f"nested deeper than {MAX_DEPTH} levels; write it flatter")

    def _error_at(self, place: Any, text: str) -> GraphError:
        return self._error(place.start_mark.line + 1, place.start_mark.column + 1, text)

    def _error_index(self, index: int, text: str) -> GraphError:
        before = self.text[:index].splitlines(keepends=True) or [""]
        return self._error(len(before), len(before[-1]) + 1, text)

    def _error(self, line: int, column: int, text: str) -> GraphError:
        return GraphError(f"{self.file}:{line}:{column}: {text}")


def _kind(key: object, node: Any) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return "a collection"
    return {bool: "true or false", type(None): "null", float: "a fraction"}[type(key)]
