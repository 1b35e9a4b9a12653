"""The registry of types that a graph may name: defined classes, installed packages and imported scripts."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.errors import GenrlGraphError, GraphError, NodeError

if TYPE_CHECKING:
    from genrl_graph.contract.declared import Declared

_TYPES: "dict[str, type[Declared]]" = {}
_loaded: list[str] = []
_consented: set[str] = set()
_imported: dict[str, tuple[Path, str]] = {}  # scripts by module name: the file and the hash of its content


def register(cls: "type[Declared]") -> None:
    """Register a class under its type name.

    A class of the same module and qualified name is replaced, as when a notebook cell runs twice. Raises `NodeError`
    if another class has the type name.
    """
    known = _TYPES.get(cls.type_name)
    if known is not None and _origin(known) != _origin(cls):
        raise NodeError(f"{cls.type_name}: declared twice, by {_origin(known)} and by {_origin(cls)}; rename one")
    _TYPES[cls.type_name] = cls


def lookup(type_name: str) -> "type[Declared] | None":
    """Return the class of a type name, or None if there is none."""
    load_packages()
    return _TYPES.get(type_name)


def types() -> "dict[str, type[Declared]]":
    """Return all known types, sorted by name."""
    load_packages()
    return dict(sorted(_TYPES.items()))


def load_packages() -> None:
    """Import once the modules that installed packages name in the entry-point group `genrl_graph.nodes`.

    Raises `NodeError` that names the package if one cannot be imported.
    """
    if _loaded:
        return
    _loaded.append("packages")  # set before the imports, which may look up types and so call this function again
    for point in sorted(entry_points(group="genrl_graph.nodes"), key=lambda point: point.value):
        try:
            point.load()
        except NodeError:
            _loaded.clear()
            raise
        except Exception as error:
            _loaded.clear()
            package = point.dist.name if point.dist is not None else "a package"
            what = f"the nodes of {package} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
            raise NodeError(f"{what}; fix or uninstall it") from error


def import_all(names: Iterable[str]) -> dict[str, str]:
    """Import scripts, which end in .py or have a folder in front, and modules; return the hash or version of each.

    Raises `GraphError` for one that cannot be imported.
    """
    versions = {}
    for name in names:
        is_file = name.endswith(".py") or "/" in name
        versions[name] = import_file(Path(name)) if is_file else import_module(name)
    return versions


def import_file(path: Path) -> str:
    """Run a script that defines nodes and return the SHA-256 of its content.

    An unchanged script is not run again. Raises `GraphError` if the script cannot be read or run.
    """
    load_packages()
    where, name, file = f"--import {path}", path.stem, path.resolve()
    try:
        source = file.read_bytes()
    except OSError as error:
        raise GraphError(f"{where}: {error.strerror}; name a Python file") from error
    digest = hashlib.sha256(source).hexdigest()
    if _imported.get(name) == (file, digest) and name in sys.modules:
        return digest
    _execute(name, file, where)
    _consented.add(name)
    _imported[name] = (file, digest)
    return digest


def _execute(name: str, file: Path, where: str) -> None:
    """Run a script as the module `name`; if it fails, restore the module that had this name before."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise GraphError(f"{where}: not a Python file; name one that ends in .py")
    previous = sys.modules.get(name)
    if _is_taken(name, file):
        raise GraphError(f"{where}: there is another module named {name!r}; rename the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # not through the bytecode cache, which takes a script that was rewritten within a second for unchanged
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if previous is not None:
            sys.modules[name] = previous
        if isinstance(error, GenrlGraphError):
            raise type(error)(f"{where}: {error}") from error
        raise GraphError(f"{where}: {type(error).__name__}: {error}") from error


def consented(module: str) -> bool:
    """Return whether the user asked to import this module or a package that contains it."""
    return any(module == known or module.startswith(f"{known}.") for known in _consented)


def import_module(name: str) -> str:
    """Import an installed module whose functions a graph file may then name, and return its version.

    Raises `GraphError` if it cannot be imported.
    """
    load_packages()
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise GraphError(f"--import {name}: {type(error).__name__}: {error}") from error
    _consented.add(name)
    return str(getattr(module, "__version__", "unknown"))


def _is_taken(name: str, file: Path) -> bool:
    """Return whether `import name` gives, or would give, another module than this file."""
    module = sys.modules.get(name)
    if module is not None:
        origin = getattr(module, "__file__", None)
    else:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None:
            return False
        origin = spec.origin
    return origin is None or Path(origin).resolve() != file


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
