"""`select.swarm_sapo`: numbers of own and external groups, uniform sampling, and hostile group ids."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph import Credited, Log, ParamError, Rollouts
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.rollouts import credit, score
from genrl_graph.nodes.select.swarm_sapo import SwarmSapo

OWN = "peer0000"
NAN = float("nan")


def swarm(make_rollouts: Any, groups: Mapping[tuple[str, str], Sequence[float]]) -> Credited[Rollouts]:
    """Build rows with these advantages by (peer, group id); the rows of the groups alternate."""
    members = [(at, *key, value) for key, values in groups.items() for at, value in enumerate(values)]
    members.sort(key=lambda member: member[0])
    rows = make_rollouts(["x"] * len(members), peer=[m[1] for m in members], group_id=[m[2] for m in members])
    return credit(score(rows, {"t": np.zeros(len(rows))}), [m[3] for m in members])


def keep(rows: Credited[Rollouts], *, own: int, external: int, seed: int = 0) -> tuple[Credited[Rollouts], Log]:
    node = SwarmSapo(own_groups=own, external_groups=external)
    selected = node.run(rows, rng=np.random.default_rng(seed), peer=OWN, log=(log := Log()))
    return selected, log


def groups_of(rows: Rollouts) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(rows.values("peer"), rows.values("group_id"), strict=True)))


def test_so_many_own_and_so_many_external_groups_whole_and_in_order(make_rollouts: Any) -> None:
    names = [(peer, f"g{at}") for peer in (OWN, "peer0001", "peer0002") for at in range(5)]
    rows = swarm(make_rollouts, dict.fromkeys(names, (1.0, -1.0, 0.0)))
    selected, log = keep(rows, own=2, external=3)
    authors = Counter(peer == OWN for peer, _ in groups_of(selected))
    assert authors == {True: 2, False: 3}
    assert Counter(zip(selected.values("peer"), selected.values("group_id"), strict=True)) == dict.fromkeys(
        groups_of(selected), 3
    )
    order = rows.values("id")
    assert [order.index(id) for id in selected.values("id")] == sorted(order.index(id) for id in selected.values("id"))
    others = {peer for peer, _ in groups_of(selected)} - {OWN}
    assert log.metrics == {
        "own_groups": 2,
        "external_groups": 3,
        "external_peers": len(others),
        "zero_advantage": 0,
        "kept": 15 / 45,
    }


def test_groups_without_advantage_are_dropped_before_the_draw(make_rollouts: Any) -> None:
    still = {("peer0001", f"still{at}"): [0.0, 0.0, NAN] for at in range(50)}
    good = {(OWN, "a"): [0.5, -0.5], ("peer0002", "b"): [0.5, NAN, -0.5]}
    selected, log = keep(swarm(make_rollouts, still | good), own=1, external=1)
    assert groups_of(selected) == [(OWN, "a"), ("peer0002", "b")]
    assert np.isfinite(selected.numpy("advantage")).all()
    assert log.metrics["zero_advantage"] == pytest.approx(50 / 52)


def test_fewer_than_asked_are_all_taken_and_no_rows_are_fine(make_rollouts: Any) -> None:
    rows = swarm(make_rollouts, {(OWN, "a"): [1.0, -1.0], ("peer0001", "a"): [1.0, -1.0]})
    selected, log = keep(rows, own=8, external=8)
    assert selected == rows
    assert (log.metrics["own_groups"], log.metrics["external_groups"]) == (1, 1)
    nothing, log = keep(rows.take([]).marked(PEER), own=1, external=1)
    assert len(nothing) == 0 and PEER in nothing.marks
    assert log.metrics["zero_advantage"] == log.metrics["kept"] == 0


def test_a_group_is_that_of_its_author(make_rollouts: Any) -> None:
    """A peer that reuses another peer's group id neither joins that group nor gives it a training signal."""
    rows = swarm(make_rollouts, {(OWN, "a"): [0.0, 0.0], ("peer0001", "a"): [5.0, -5.0]})
    selected, log = keep(rows, own=1, external=0)
    assert len(selected) == 0
    assert log.metrics["zero_advantage"] == 0.5


def test_the_draw_is_uniform_over_groups_not_peers_and_follows_the_seed(make_rollouts: Any) -> None:
    names = [("peer0001", f"g{at}") for at in range(6)] + [("peer0002", "lone"), ("peer0003", "lone")]
    rows = swarm(make_rollouts, dict.fromkeys(names, (1.0, -1.0)) | {(OWN, "a"): [1.0, -1.0]})
    drawn = Counter(group for seed in range(600) for group in groups_of(keep(rows, own=1, external=2, seed=seed)[0]))
    assert drawn.pop((OWN, "a")) == 600
    assert set(drawn) == set(names)
    expected, spread = 600 * 2 / 8, (600 * 0.25 * 0.75) ** 0.5
    assert all(abs(count - expected) < 4.5 * spread for count in drawn.values())
    assert keep(rows, own=1, external=2, seed=3)[0] == keep(rows, own=1, external=2, seed=3)[0]


def test_the_draw_of_own_groups_does_not_hang_on_what_others_sent(make_rollouts: Any) -> None:
    own = {(OWN, f"g{at}"): [1.0, -1.0] for at in range(9)}
    others = {("peer0001", f"g{at}"): [1.0, -1.0] for at in range(4)}
    alone, among = (keep(swarm(make_rollouts, rows), own=3, external=2)[0] for rows in (own, own | others))
    assert groups_of(alone) == [name for name in groups_of(among) if name[0] == OWN]


def test_a_selection_that_never_keeps_anything_is_refused() -> None:
    with pytest.raises(ParamError, match="own_groups and external_groups are both 0"):
        SwarmSapo(own_groups=0, external_groups=0)
    with pytest.raises(ParamError, match="external_groups"):
        SwarmSapo(own_groups=1, external_groups=-1)


NAMES = st.tuples(st.sampled_from([OWN, "peer0001", "peer0002"]), st.sampled_from("abcde"))
ADVANTAGES = st.lists(st.sampled_from([0.0, 1.0, -1.0, NAN]), min_size=1, max_size=3)


@given(st.dictionaries(NAMES, ADVANTAGES, max_size=12), st.integers(0, 4), st.integers(1, 4), st.integers(0, 99))
def test_it_keeps_as_many_as_there_are_up_to_what_was_asked(
    make_rollouts: Any, groups: dict[tuple[str, str], list[float]], own: int, external: int, seed: int
) -> None:
    selected, log = keep(swarm(make_rollouts, groups), own=own, external=external, seed=seed)
    teaching = {name for name, values in groups.items() if any(np.isfinite(v) and v != 0 for v in values)}
    mine = sum(peer == OWN for peer, _ in teaching)
    assert log.metrics["own_groups"] == min(own, mine)
    assert log.metrics["external_groups"] == min(external, len(teaching) - mine)
    assert set(groups_of(selected)) <= teaching
    assert len(groups_of(selected)) == log.metrics["own_groups"] + log.metrics["external_groups"]
    assert len(selected) == sum(np.isfinite(groups[name]).sum() for name in groups_of(selected))
