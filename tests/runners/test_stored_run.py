"""A run that was stored once: a replay computes the same rewards, advantages and losses today.

Where a change of these numbers is meant, raise the `class_version` of the classes that compute them, and make the run
anew: `python tests/data/make_tiny_run.py`.
"""

import shutil
from pathlib import Path

import pytest

from genrl_graph import open_run, replay
from genrl_graph.records.verify import verify_run

STORED = Path(__file__).parents[1] / "data" / "tiny_run"
TRAINED = ("loss", "grad_norm", "ratio", "clipped_low", "clipped_high", "trained_rows", "trained_tokens", "version")


def test_the_stored_run_is_small_and_whole(tmp_path: Path) -> None:
    assert sum(path.stat().st_size for path in STORED.rglob("*") if path.is_file()) < 300_000
    assert verify_run(shutil.copytree(STORED, tmp_path / "copy")).problems == []
    run = open_run(STORED)
    assert (run.rounds, run.peers) == ([0, 1], ["peer0000", "peer0001"])


@pytest.mark.parametrize("number", [0, 1])
def test_rewards_and_losses_are_those_that_were_stored(number: int, tmp_path: Path) -> None:
    """Rewards and advantages to the bit; losses nearly, for their ratios are to the log-probs of the sampler."""
    run = open_run(STORED)
    span = (number, number + 1)
    found = replay(STORED, run.graph, out=tmp_path / "y", rounds=span, update=True, recompute=["all"])
    judged = [name for name in run.nodes if name.startswith(("score_", "credit_"))]
    assert [name for name, verdict in found.verdicts.items() if verdict.fate == "recomputed"] == judged
    assert list(dict.fromkeys(move.node for move in found.moves)) == judged
    assert [move for move in found.moves if move.changed] == []
    made = open_run(found.folder)
    for group in judged:
        assert made.table(group).equals(run.table(group, number)), group
    told = {(row["round"], row["peer"]): row for row in run.metrics().to_pylist()}
    for row in made.metrics().to_pylist():
        for name in TRAINED:
            then = told[number, row["peer"]][f"update/{name}"]
            assert row[f"update/{name}"] == pytest.approx(then, rel=1e-4, abs=1e-6), (row["peer"], name)
