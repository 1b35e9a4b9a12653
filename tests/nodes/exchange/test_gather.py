"""`exchange.gather`: the rows that a peer takes from the packets it received."""

import numpy as np
import pytest
from fixture_types import MakeRollouts

from genrl_graph import Log, Packet, Rollouts, score
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.nodes.exchange.gather import Gather


def admit(node: Gather, packets: list[Packet[Rollouts]], *, peer: str, seed: int = 0) -> tuple[Rollouts, Log]:
    log = Log()
    return node.admit(packets, rng=np.random.default_rng(seed), peer=peer, log=log), log


@pytest.fixture
def packets(make_rollouts: MakeRollouts) -> list[Packet[Rollouts]]:
    return [
        Packet(name, 0, make_rollouts([f"{name}{at}" for at in range(2)], peer=name))
        for name in ("anna", "ben", "cleo")
    ]


def test_rows_of_all_peers_in_the_order_of_their_names(packets: list[Packet[Rollouts]]) -> None:
    rows, log = admit(Gather(min_peers=1), packets[::-1], peer="ben")
    assert rows.values("completion") == ["anna0", "anna1", "ben0", "ben1", "cleo0", "cleo1"]
    assert PEER in rows.marks
    assert log.facts["taken"] == ["anna", "ben", "cleo"]


def test_the_own_rows_can_be_left_out(packets: list[Packet[Rollouts]]) -> None:
    rows, _ = admit(Gather(min_peers=1, include_self=False), packets, peer="ben")
    assert rows.values("peer") == ["anna", "anna", "cleo", "cleo"]


def test_alone_and_without_oneself_there_are_no_rows_of_the_same_type(packets: list[Packet[Rollouts]]) -> None:
    rows, _ = admit(Gather(min_peers=1, include_self=False), packets[1:2], peer="ben")
    assert len(rows) == 0
    assert str(rows.edge_type) == "PeerRollouts"


def test_a_peer_speaks_only_for_itself(packets: list[Packet[Rollouts]], make_rollouts: MakeRollouts) -> None:
    forged = make_rollouts(["good", "forged"], peer=["cleo", "anna"])
    rows, log = admit(Gather(min_peers=1), [*packets[:2], Packet("cleo", 0, forged)], peer="ben")
    assert rows.values("completion") == ["anna0", "anna1", "ben0", "ben1", "good"]
    assert log.facts["refused"] == {"cleo": 1}
    assert log.metrics["refused"] == 1


def test_max_peers_draws_others_by_seed_and_keeps_oneself(packets: list[Packet[Rollouts]]) -> None:
    node = Gather(min_peers=1, max_peers=1)
    drawn = {tuple(admit(node, packets, peer="ben", seed=seed)[1].facts["taken"]) for seed in range(20)}
    assert drawn == {("anna", "ben"), ("ben", "cleo")}
    again = [admit(node, packets, peer="ben", seed=3)[1].facts["taken"] for _ in range(3)]
    assert again[0] == again[1] == again[2]


def test_marks_are_kept(make_rollouts: MakeRollouts) -> None:
    scored = score(make_rollouts(["a"], peer="anna"), {"made_up": [1.0]})
    rows, _ = admit(Gather(min_peers=1), [Packet("anna", 0, scored)], peer="anna")
    assert str(rows.edge_type) == "Peer[Scored]"
