"""Print the packages of this environment whose version is not the locked one."""

import re
from importlib.metadata import distributions
from pathlib import Path

LOCK = Path(__file__).parent.parent / "genrl_graph/lock.txt"
NEVER_LOCKED = re.compile(r"genrl-graph$|(nvidia|cuda)-|triton$")  # a CUDA build of torch pins its own packages


def drift() -> list[str]:
    """Return `name version (lock: version)` for each package that differs from the lock."""
    locked = dict(line.split("==") for line in LOCK.read_text().splitlines() if not line.startswith("#"))
    installed = {re.sub(r"[-_.]+", "-", each.name).lower(): each.version.partition("+")[0] for each in distributions()}
    return [
        f"{name} {version} (lock: {locked.get(name, 'not in it')})"
        for name, version in sorted(installed.items())
        if version != locked.get(name) and not NEVER_LOCKED.match(name)
    ]


if __name__ == "__main__":
    rows = drift()
    print(f"Packages that differ from the lock: {len(rows)}", *rows, sep="\n  ")
