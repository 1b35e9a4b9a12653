"""The lock is what `make` installs, plain enough to be shipped, and within the ranges that users get."""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "genrl_graph/lock.txt").read_text().splitlines()
PINS = [line for line in LINES if not line.startswith("#")]
LOCKED = dict(line.split("==") for line in PINS)
FROM_TORCH = re.compile(r"(nvidia|cuda)-|triton$")  # a CUDA build of torch pins these itself


def requirements() -> Iterator[Requirement]:
    """Yield every requirement that pyproject.toml declares, extras and build system included."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, tools = settings["project"], settings["build-system"]["requires"]
    for lines in (project["dependencies"], *project["optional-dependencies"].values(), tools):
        yield from map(Requirement, lines)


def test_lines_are_sorted_names_with_public_versions() -> None:
    assert sorted(set(PINS)) == PINS
    plain = [f"{canonicalize_name(name)}=={Version(version).public}" for name, version in LOCKED.items()]
    assert plain == PINS
    assert not [name for name in LOCKED if FROM_TORCH.match(name)]


def test_locked_versions_lie_within_the_ranges_of_pyproject() -> None:
    outside = [
        f"{requirement} (lock: {LOCKED.get(canonicalize_name(requirement.name), 'not in it')})"
        for requirement in requirements()
        if not requirement.specifier.contains(LOCKED.get(canonicalize_name(requirement.name), "0"))
    ]
    assert not outside, f"run `make lock`: {outside}"


def test_the_environment_is_the_locked_one() -> None:
    """`make latest` and `make oldest` deselect this test: their environments differ on purpose."""
    installed = {canonicalize_name(each.name): Version(each.version).public for each in distributions()}
    differing = {
        name: f"{version} (lock: {LOCKED.get(name, 'not in it')})"
        for name, version in installed.items()
        if version != LOCKED.get(name) and name != "genrl-graph" and not FROM_TORCH.match(name)
    }
    assert not differing, f"run `make clean test`; the lock is for Python 3.11, not {sys.version}: {differing}"
