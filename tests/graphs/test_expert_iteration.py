"""expert_iteration.yaml learns, and trains on right rows only, at most one of each group."""

from pathlib import Path

import numpy as np

from genrl_graph import load, play
from genrl_graph.store.run_store import RunStore


def test_expert_iteration_learns_with_its_own_params(graphs: Path, tmp_path: Path, one_thread: None) -> None:
    """Chance is 0.07. Measured over three seeds: rounds 1 to 3 pay 0.05 to 0.07, rounds 41 to 50 pay above 0.85."""
    run = play(load(graphs / "expert_iteration.yaml"), out=tmp_path / "run", rounds=50, quiet=True)
    store = RunStore.open(run.folder)
    rewards = np.asarray(store.table("score")["reward"]).reshape(50, -1).mean(axis=1)
    assert rewards[:3].mean() < 0.15
    assert rewards[-10:].mean() > 0.6
    assert store.table("update/trained")["id"].to_pylist() == store.table("best")["id"].to_pylist()
    kept = np.bincount(store.table("best")["round"].to_numpy(), minlength=50)
    assert kept.max() <= 32 and kept[:3].mean() < 28 and kept[-10:].mean() > 28
