"""Print the lower bound of every direct dependency in pyproject.toml as `name==version` lines."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def lowest(line: str) -> str:
    """Return the lower bound of one requirement as a pin."""
    requirement = Requirement(line)
    bounds = [each.version for each in requirement.specifier if each.operator == ">="]
    if len(bounds) != 1:
        raise SystemExit(f"pyproject.toml: {line!r} has no lower bound: write {requirement.name}>=VERSION")
    return f"{requirement.name}=={bounds[0]}"


if __name__ == "__main__":
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        print(*map(lowest, lines), sep="\n")
