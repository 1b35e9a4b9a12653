"""`update.snapshot` and the carries of snapshots and baselines."""

from pathlib import Path

import numpy as np
import pytest

from genrl_graph import Log
from genrl_graph.errors import StoreError
from genrl_graph.nodes.policy.actor_critic import ActorCriticCarry
from genrl_graph.nodes.policy.actors.acting import ActorCritic
from genrl_graph.nodes.update.baselines import Baselines, BaselinesCarry
from genrl_graph.nodes.update.snapshots import Snapshots, SnapshotsCarry, TakeSnapshot
from genrl_graph.seeds import stream


@pytest.fixture
def policy() -> ActorCritic:
    return ActorCriticCarry(observation=(2,), actions=3, hidden=(4,)).init("policy", seed=0)


def test_a_copy_every_so_many_rounds_and_the_oldest_go(policy: ActorCritic) -> None:
    pool, node = SnapshotsCarry().init("past", seed=0), TakeSnapshot(every=2, size=2)
    names = []
    for round in range(8):
        policy.version = round
        log, before = Log(), pool
        pool = node.run(pool, policy, round=round, log=log)
        assert log.metrics["snapshots"] == len(pool.members)
        assert before.members == pool.members[-len(before.members) - 1 : -1] or round % 2 == 0 or round > 4
        names.append([member.name for member in pool.members])
    assert names[0] == []
    assert names[1:3] == [["policy@1"]] * 2
    assert names[-1] == ["policy@5", "policy@7"]


def test_the_pool_comes_back_from_the_disk_and_its_members_play_as_before(policy: ActorCritic, tmp_path: Path) -> None:
    pool = Snapshots([policy.frozen("policy@3"), policy.frozen("policy@7")])
    pool.save(tmp_path)
    again = Snapshots()
    assert again.digest() != pool.digest()
    again.load(tmp_path)
    assert again.digest() == pool.digest()
    seen, masks = np.ones((5, 2), np.float32), np.ones((5, 3), np.int8)
    for known, loaded in zip(pool.members, again.members, strict=True):
        assert isinstance(known, ActorCritic) and isinstance(loaded, ActorCritic)
        assert (known.name, known.version) == (loaded.name, loaded.version)
        assert np.array_equal(
            known.act(seen, masks, rng=stream(0)).actions, loaded.act(seen, masks, rng=stream(0)).actions
        )
    (tmp_path / "snapshots.json").write_text("[]")
    with pytest.raises(StoreError, match="holds no pool of policies"):
        again.load(tmp_path)


def test_baselines_come_back_from_the_disk(tmp_path: Path) -> None:
    baselines, again = Baselines({"tasks/0": 0.1, "tasks/1": -1 / 3}), BaselinesCarry().init("baselines", seed=0)
    baselines.save(tmp_path)
    again.load(tmp_path)
    assert again.means == baselines.means
    assert again.digest() == baselines.digest() != Baselines().digest()
    (tmp_path / "baselines.json").write_text("[1]")
    with pytest.raises(StoreError, match="holds no baselines"):
        again.load(tmp_path)
