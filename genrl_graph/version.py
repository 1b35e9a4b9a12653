"""Version and commit of this package, and differences of the installed packages from the lock."""

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

VERSION = "0.1.0"
"""The version number; the build reads it from here."""

SHOWN = ("torch", "transformers", "trl")
LOCK = Path(__file__).with_name("lock.txt")
"""The versions of all packages that this version was tested with, as `name==version` lines."""


def version_line() -> str:
    """Return the line of `genrl-graph --version`: this package, its commit, Python and the training packages."""
    revision = commit()
    packages = [f"{name} {installed(name) or '(not installed)'}" for name in SHOWN]
    own = f"genrl-graph {VERSION}" + (f" (commit {revision})" if revision else "")
    return ", ".join([own, f"Python {platform.python_version()}", *packages])


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """Return the git commit of the checkout that this package runs from, or None for an installed wheel.

    The commit ends in `-dirty` if tracked files differ from it.
    """
    here = Path(__file__).parent
    tracked = _git(here, "ls-files", "--", Path(__file__).name)  # a wheel may be installed inside another repository
    if not tracked:
        return None
    return _git(here, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def lock_digest() -> str:
    """Return the first 16 hex digits of the SHA-256 of the shipped lock file."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]


def locked() -> dict[str, str]:
    """Return the version of each package in the lock."""
    lines = (line.partition("#")[0].strip() for line in LOCK.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==", 1) for line in lines if line)


def differing_from_lock() -> Mapping[str, str]:
    """Return the installed version of each locked package that is installed in another version."""
    pins = locked()
    versions = {name: version for name in pins if (version := installed(name)) is not None}
    # a local suffix such as +cpu names a build of the same version
    return {name: version for name, version in versions.items() if version.partition("+")[0] != pins[name]}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command, or None if it fails, prints nothing or git is not installed."""
    # without the monitor of a configuration, which git would start, and which would hold the output open
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
