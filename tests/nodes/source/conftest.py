"""Sources remember checked data in a folder of the tests."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENRL_GRAPH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
