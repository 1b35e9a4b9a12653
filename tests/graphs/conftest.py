"""The shipped graph files, and one thread for the tiny models that they play with."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import genrl_graph.graphs
from genrl_graph.nodes.worker.worker_pool import shared_pool

sys.path.append(str(Path(__file__).parents[1] / "runners"))  # the harnesses `crash` and `ranks`
GRAPHS = Path(genrl_graph.graphs.__file__).resolve().parent


@pytest.fixture(scope="session")
def graphs() -> Path:
    """The folder of the shipped graphs."""
    return GRAPHS


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Torch computes on one thread: a tiny model gains nothing from more, and equal runs are equal bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def workers_end() -> Iterator[None]:
    """Worker processes of rewards are kept over rounds; none outlives the tests."""
    yield
    shared_pool.cache_clear()


@pytest.fixture(autouse=True)
def sandboxed(request: pytest.FixtureRequest) -> None:
    """Leave out a case of a game that runs programs where the sandbox cannot contain them."""
    case = getattr(request.node, "callspec", None)
    if case is not None and any(str(value).endswith("python_tool.yaml") for value in case.params.values()):
        request.getfixturevalue("contained")
