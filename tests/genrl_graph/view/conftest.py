"""Make the helper modules of this folder importable by name, and share a server of some runs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two stages and two peers, `toy`, and a run with hostile text, `hostile`."""
    from viewed import make_runs

    return make_runs(tmp_path_factory.mktemp("view") / "runs")


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """The address of a server of these runs."""
    from viewed import serving

    with serving(runs / "toy", runs / "hostile") as address:
        yield address
