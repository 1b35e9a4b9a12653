"""A run folder may come from a stranger: taking its lock touches nothing that a link in it leads to."""

from pathlib import Path

import pytest

from genrl_graph.errors import StoreError
from genrl_graph.store.run_folder import LOCK, WriterLock
from genrl_graph.store.run_store import RunStore


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_that_is_a_link_is_refused_and_its_target_kept(tmp_path: Path, shared: bool) -> None:
    folder, precious = tmp_path / "run", tmp_path / "precious"
    RunStore.create(folder, "graph: g\nnodes: {}\n", {}).close()
    precious.write_text("mine")
    (folder / LOCK).unlink()
    (folder / LOCK).symlink_to(precious)
    with pytest.raises(StoreError, match=rf"{LOCK}: is a link; a run has files and folders of its own only"):
        WriterLock(folder, shared=shared)
    assert precious.read_text() == "mine"
