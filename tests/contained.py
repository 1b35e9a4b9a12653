"""The sandbox of tests: what runs programs in it is left out where it cannot contain them. A plugin of pytest."""

import pytest

from genrl_graph.errors import DataError


@pytest.fixture(scope="session")
def contained() -> None:
    """Skip the test, with the line that a user gets, where the sandbox cannot contain code."""
    from genrl_graph.nodes.sandbox.probe import proven_bubblewrap

    try:
        proven_bubblewrap()
    except DataError as error:
        pytest.skip(str(error))
