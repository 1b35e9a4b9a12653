"""Benchmarks import what they share as `measure`; in importlib mode pytest puts no folder of tests on the path."""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder on the disk on which runs are kept."""
    runs = HERE.parents[1] / "runs"
    runs.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=runs) as name:
        yield Path(name)
