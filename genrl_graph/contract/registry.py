"""Which types a graph may name: the classes defined so far, the installed packages' and the imported scripts'."""

import hashlib
import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.errors import GenrlGraphError, GraphError, NodeError

if TYPE_CHECKING:
    from genrl_graph.contract.declared import Declared

_TYPES: "dict[str, type[Declared]]" = {}
_loaded: list[str] = []
_consented: set[str] = set()
_imported: dict[str, tuple[Path, str]] = {}  # scripts by module name: the file, and the hash of what was run


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
    _loaded.append("packages")  # first, for what is imported below may look a type up
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
            raise NodeError(f"{what}; mend or uninstall it") from error


def import_file(path: Path) -> str:
    """Run a script that defines nodes, once; returns the hash of its content.

    A script that has changed is run again. Raises `GraphError` where it does not run.
    """
    load_packages()
    where, name, file = f"--import {path}", path.stem, path.resolve()
    try:
        source = file.read_bytes()
    except OSError as error:
        raise GraphError(f"{where}: {error.strerror}; name a Python file") from error
    content = hashlib.sha256(source).hexdigest()
    if _imported.get(name) == (file, content) and name in sys.modules:
        return content
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise GraphError(f"{where}: not a Python file; name one that ends in .py")
    before = sys.modules.get(name)
    if _another_module(name, file):
        raise GraphError(f"{where}: there is another module named {name!r}; rename the file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        if isinstance(error, GenrlGraphError):
            raise type(error)(f"{where}: {error}") from error
        raise GraphError(f"{where}: {type(error).__name__}: {error}") from error
    _consented.add(name)
    _imported[name] = (file, content)
    return content


def consented(module: str) -> bool:
    """Whether this module, or a package around it, was imported on request."""
    return any(module == known or module.startswith(f"{known}.") for known in _consented)


def import_module(name: str) -> str:
    """Import an installed module on request, so that a graph file may name its functions; returns its version."""
    load_packages()
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise GraphError(f"--import {name}: {type(error).__name__}: {error}") from error
    _consented.add(name)
    return str(getattr(module, "__version__", "unknown"))


def _another_module(name: str, file: Path) -> bool:
    """Whether `import name` gives, or would give, something else than this file."""
    known = sys.modules.get(name)
    if known is not None:
        origin = getattr(known, "__file__", None)
    else:
        found = importlib.util.find_spec(name) if name.isidentifier() else None
        if found is None:
            return False
        origin = found.origin
    return origin is None or Path(origin).resolve() != file


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
