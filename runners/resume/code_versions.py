"""Versions of the code behind a node: its class, package and script, as a run recorded them and as they are now."""

import hashlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from genrl_graph.contract.declared import Declared
from genrl_graph.dag.fingerprint import full_fingerprint
from genrl_graph.dag.graph import Graph, Part
from genrl_graph.runners.resume.data_digests import data_digests
from genrl_graph.version import commit, differing_from_lock, installed, lock_digest

PACKAGES = ("genrl-graph", "torch", "transformers", "trl", "numpy", "pyarrow", "zarr")

_FUNCTION = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):[A-Za-z_]\w*(?:\.\w+)*")


def run_versions(graph: Graph, imports: Mapping[str, str]) -> dict[str, Any]:
    """Return the versions that a run folder records: packages, Python, commit, data, scripts, node classes.

    `packages` are those that define nodes, besides `PACKAGES`.
    """
    versions: dict[str, Any] = {name: version for name in PACKAGES if (version := installed(name)) is not None}
    versions |= {"python": platform.python_version(), "lock": lock_digest(), "fingerprint": full_fingerprint(graph)}
    optional = {
        "commit": commit(),
        "unlocked": dict(differing_from_lock()),
        "data": data_digests(graph),
        "imports": dict(imports),
        "classes": class_versions(graph),
        "packages": _node_packages(graph),
    }
    return versions | {name: value for name, value in optional.items() if value}


class CodeVersions:
    """The code versions that a run folder recorded, compared with the installed code."""

    def __init__(self, versions: Mapping[str, Any]) -> None:
        self._classes: Mapping[str, int] = versions.get("classes", {})
        imports: Mapping[str, str] = versions.get("imports", {})
        self._scripts = {Path(name).stem: digest for name, digest in imports.items() if _is_script(name)}
        self._packages: dict[str, set[str]] = {}
        resumed = [record.get("versions", {}) for record in versions.get("resumed", [])]
        for known in (versions, versions.get("packages", {}), *resumed):
            for name, version in known.items():
                if isinstance(version, str):
                    self._packages.setdefault(name, set()).add(version)

    def changes(self, part: Part) -> list[str]:
        """Describe each change in the code of a part; code whose version was not recorded counts as unchanged."""
        changes = []
        if part.cls is not None:
            then, now = self._classes.get(part.type_name, 1), part.cls.class_version
            if then != now:
                changes.append(f"version {then} -> {now} of {part.type_name}")
        for module in modules_of(part):
            changes += [change for change in self._module_changes(module) if change not in changes]
        return changes

    def _module_changes(self, module: str) -> Iterator[str]:
        if module in self._scripts:
            if _script_digest(module) not in (None, self._scripts[module]):
                yield f"{module}.py has changed"
            return
        package = _package_of(module)
        now = None if package is None else installed(package)
        if package is not None and now is not None and (then := self._packages.get(package, set()) - {now}):
            yield f"{package} {', '.join(sorted(then))} -> {now}"


def modules_of(part: Part) -> list[str]:
    """Return the modules that define a part: those of its class, its base classes, and the functions it names."""
    declared, modules = part.declared, []
    for cls in part.cls.__mro__ if part.cls is not None else ():
        if issubclass(cls, Declared) and (cls.type_name or not _is_ours(cls.__module__)):
            modules.append(cls.__module__)
    for name in type(declared).model_fields if declared is not None else ():
        value = getattr(declared, name)
        if isinstance(value, str) and (function := _FUNCTION.fullmatch(value)):
            modules.append(function[1])
        elif callable(value):
            modules.append(str(getattr(value, "__module__", "")))
    return list(dict.fromkeys(modules))


def _node_packages(graph: Graph) -> dict[str, str]:
    """Return name and version of the installed packages that define nodes of a graph, without those in `PACKAGES`."""
    names = {_package_of(module) for part in graph.nodes.values() for module in modules_of(part)}
    wanted = sorted(name for name in names if name is not None and name not in PACKAGES)
    return {name: version for name in wanted if (version := installed(name)) is not None}


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "genrl_graph"


def _is_script(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _script_digest(module: str) -> str | None:
    """Return the hash of a module's file; None where it has none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _package_of(module: str) -> str | None:
    if _is_ours(module):
        return "genrl-graph"
    names = _distributions().get(module.partition(".")[0])
    return names[0] if names else None


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def class_versions(graph: Graph) -> dict[str, int]:
    """Return the class versions of a graph's parts by type name, without those that are 1."""
    classes = [part.cls for part in (*graph.carries.values(), *graph.nodes.values()) if part.cls is not None]
    return {cls.type_name: cls.class_version for cls in classes if cls.class_version != 1}
