"""Which types a graph may name: the classes defined so far, the installed packages' and the imported scripts'."""

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.errors import GraphError, NodeError

if TYPE_CHECKING:
    from genrl_graph.declared import Declared

_TYPES: "dict[str, type[Declared]]" = {}
_loaded: list[str] = []


def register(cls: "type[Declared]") -> None:
    """Make a class known by its type name.

    The same module and qualified name replaces (a notebook cell that runs twice); another one raises `NodeError`.
    """
    known = _TYPES.get(cls.type_name)
    if known is not None and _origin(known) != _origin(cls):
        raise NodeError(f"{cls.type_name}: declared twice, by {_origin(known)} and by {_origin(cls)}; rename one")
    _TYPES[cls.type_name] = cls


def lookup(type_name: str) -> "type[Declared] | None":
    """The class of a type name, or None."""
    load_packages()
    return _TYPES.get(type_name)


def types() -> "dict[str, type[Declared]]":
    """All known types, sorted by name."""
    load_packages()
    return dict(sorted(_TYPES.items()))


def load_packages() -> None:
    """Import, once, the modules that installed packages name in the entry-point group `genrl_graph.nodes`."""
    if _loaded:
        return
    _loaded.append("packages")
    for point in sorted(entry_points(group="genrl_graph.nodes"), key=lambda point: point.value):
        point.load()


def import_file(path: Path) -> str:
    """Run a script that defines nodes; returns the hash of its content. Raises `GraphError` where it does not run."""
    load_packages()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise GraphError(f"--import {path}: {error.strerror}") from error
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise GraphError(f"--import {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    if before is not None and getattr(before, "__file__", None) != str(path):
        raise GraphError(f"--import {path}: a module named {path.stem!r} is already imported; rename the file")
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        if isinstance(error, NodeError):
            raise
        raise GraphError(f"--import {path}: {type(error).__name__}: {error}") from error
    return hashlib.sha256(source).hexdigest()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as " (did you mean 'critiques'?)", or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
