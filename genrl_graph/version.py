"""The version of this package, the commit it runs from, and how the installed packages differ from the lock."""

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

VERSION = "0.1.0"
"""The one place where the version number stands; the build reads it from here."""

SHOWN = ("torch", "transformers", "trl")
LOCK = Path(__file__).with_name("lock.txt")
"""The versions of all packages that this version was tested with, as `name==version` lines."""


def version_line() -> str:
    """Return what `genrl-graph --version` prints: this package, its commit, Python and the packages that train."""
    revision = commit()
    packages = [f"{name} {installed(name) or '(not installed)'}" for name in SHOWN]
    own = f"genrl-graph {VERSION}" + (f" (commit {revision})" if revision else "")
    return ", ".join([own, f"Python {platform.python_version()}", *packages])


def installed(package: str) -> str | None:
    """Return the version of an installed package, None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """Return the git commit of the checkout that this package runs from, None for an installed wheel.

    `-dirty` follows where tracked files differ from the commit.
    """
    here = Path(__file__).parent
    tracked = _git(here, "ls-files", "--", Path(__file__).name)  # a wheel may lie inside a repository of somebody else
    if not tracked:
        return None
    return _git(here, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def lock_digest() -> str:
    """Return the first 16 digits of the SHA-256 of the lock file that this package ships."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]


def locked() -> dict[str, str]:
    """Return the version of each package in the lock."""
    lines = (line.partition("#")[0].strip() for line in LOCK.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==", 1) for line in lines if line)


def differing_from_lock() -> Mapping[str, str]:
    """Return the installed version of each package that the lock names and that is installed in another one."""
    pins = locked()
    now = {name: version for name in pins if (version := installed(name)) is not None}
    # a local suffix such as +cpu names a build of the same version
    return {name: version for name, version in now.items() if version.partition("+")[0] != pins[name]}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, None where it fails, prints nothing or is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
