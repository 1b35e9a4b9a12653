"""Shared modules of tests, imported once as by `--import tests/toys.py`; tests import `toys` and `architectures`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from genrl_graph.contract import registry
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import Loaded, read_document

sys.path.append(str(Path(__file__).parent))  # the plugins below
pytest_plugins = ["browser", "contained", "cpu_time", "no_skips"]

TOYS = Path(__file__).parent / "toys.py"
LONGEST = (
    "test_readme.py",
    "test_crashes.py",
    "test_torchrun.py",
    "test_trl_torchrun.py",
    "test_lora.py",
    "test_game.py",
    "test_replay.py",
    "test_trackers.py",
)
registry.import_file(TOYS)
registry.import_file(TOYS.with_name("architectures.py"))
# a busy machine is no failure; CI plays the same examples every time, everybody else new ones
settings.register_profile("unhurried", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: now and then each waits for a process, a deadline or a disk."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def toys_file() -> Path:
    """The script that defines the toy nodes."""
    return TOYS


@pytest.fixture
def read() -> Callable[[str], Loaded]:
    """Reads YAML text as `game.yaml` and gives the graph with all its problems."""
    return lambda text: read_document(parse_document(text, file="game.yaml"))
