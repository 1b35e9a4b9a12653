"""The version, commit and lock differences that a run and `--version` report."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from genrl_graph import __version__, version

ROOT = Path(__file__).parents[2]


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "genrl_graph.version.VERSION"}
    assert __version__ == version.VERSION


def test_the_version_line_names_what_runs_without_loading_it() -> None:
    script = "import sys; from genrl_graph.cli import run_command; run_command(sys.argv[1:])"
    check = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); "
    done = subprocess.run(
        [sys.executable, "-c", check + script, "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{version.version_line()}\n" and done.stderr == "False\n"
    python = ".".join(map(str, sys.version_info[:3]))
    for part in (f"genrl-graph {__version__}", f"Python {python}", "torch ", "transformers ", "trl "):
        assert part in done.stdout


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_own_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "version.py"
    module.write_text("")
    monkeypatch.setattr(version, "__file__", str(module))
    assert version.commit.__wrapped__() is None, "no repository"
    git(tmp_path, "init", "-q")
    (tmp_path / "other.py").write_text("")
    git(tmp_path, "add", "other.py")
    git(tmp_path, "commit", "-qm", "one")
    assert version.commit.__wrapped__() is None, "a wheel that was installed inside another repository"
    git(tmp_path, "add", "version.py")
    git(tmp_path, "commit", "-qm", "two")
    git(tmp_path, "tag", "-am", "x", "v9")
    assert version.commit.__wrapped__() == git(tmp_path, "rev-parse", "HEAD")[:12]
    module.write_text("changed = True\n")
    assert version.commit.__wrapped__() == git(tmp_path, "rev-parse", "HEAD")[:12] + "-dirty"


def test_what_differs_from_the_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock.txt"
    torch, numpy = version.installed("torch"), version.installed("numpy")
    assert torch is not None and numpy is not None
    lock.write_text(f"# a comment\ntorch=={torch.partition('+')[0]}\nnumpy==0.1\nnot-installed-at-all==1.0\n")
    monkeypatch.setattr(version, "LOCK", lock)
    assert version.differing_from_lock() == {"numpy": numpy}
