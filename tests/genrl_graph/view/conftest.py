"""Make the helper modules of this folder importable by name, and share a server of some runs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toys import toy_game
from viewed import make_hostile_run, serving

from genrl_graph import play


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two stages and two peers, three rounds of ten, and a run with hostile text."""
    folder = tmp_path_factory.mktemp("view") / "runs"
    play(toy_game(), out=folder / "toy", rounds=3, peers=2, quiet=True)
    make_hostile_run(folder / "hostile")
    return folder


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """The address of a server of these runs."""
    with serving(runs / "toy", runs / "hostile") as address:
        yield address
