"""`exchange.average`: what peers offer, whose weights count, and where they meet again after one was late."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genrl_graph import Log, Packet
from genrl_graph.contract.policy import TextPolicy
from genrl_graph.edge_types.weights import ROW_VALUES, Weights
from genrl_graph.errors import StoreError
from genrl_graph.nodes.exchange.average import Average
from genrl_graph.nodes.exchange.outer_state import OuterState
from genrl_graph.nodes.exchange.weight_rows import flat_weights, replace_weights, vector_of, weight_rows
from genrl_graph.nodes.policy.tiny_lm import TinyLM

NAMES = ("anna", "ben", "cleo")


class Peers:
    """Peers with a policy and an outer state each; `meet` averages those that are named."""

    def __init__(self, node: Average, names: Sequence[str] = NAMES, *, hidden: int = 16) -> None:
        self.node, self.names = node, names
        tiny = TinyLM(hidden_size=hidden, layers=1, heads=2)
        self.policies: dict[str, TextPolicy] = {name: tiny.init("policy", seed=0) for name in names}
        self.outer = {name: OuterState() for name in names}
        self.logs: dict[str, Log] = {}
        self.rng = np.random.default_rng(0)

    def train(self, scale: float = 0.01) -> None:
        """Move the weights of every peer in a direction of its own."""
        for name in self.names:
            flat = self.flat(name)
            replace_weights(self.policies[name], flat + scale * self.rng.standard_normal(len(flat)).astype(np.float32))

    def flat(self, name: str) -> NDArray[np.float32]:
        return flat_weights(self.policies[name])[0]

    def meet(self, *names: str, instead: Mapping[str, Weights] | None = None) -> None:
        """Average the named peers, all by default; `instead` replaces what a peer sends."""
        present = names or tuple(self.names)
        offers = {name: self.node.offer(self.policies[name], self.outer[name]) for name in present}
        for name in present:
            rows = {**offers, **(instead or {}), name: offers[name]}
            packets = [Packet(peer, 0, rows[peer]) for peer in sorted(present)]
            self.logs[name] = log = Log()
            averaged = self.node.admit(packets, self.policies[name], self.outer[name], peer=name, log=log)
            self.outer[name] = averaged.outer

    @property
    def agree(self) -> bool:
        return len({self.policies[name].digest() for name in self.names}) == 1


def test_the_first_average_is_the_mean_and_later_ones_are_outer_steps_that_all_peers_take_alike() -> None:
    peers = Peers(Average(min_peers=2, dtype="float32", outer_learning_rate=0.5, outer_momentum=0.0))
    peers.train()
    mean = np.mean([peers.flat(name) for name in NAMES], axis=0)
    version = peers.policies["anna"].version
    peers.meet()
    assert peers.agree
    np.testing.assert_allclose(peers.flat("anna"), mean, rtol=1e-5, atol=1e-7)
    assert peers.policies["anna"].version == version + 1
    peers.train()
    moved = np.mean([peers.flat(name) for name in NAMES], axis=0)
    distance = float(np.linalg.norm(peers.flat("ben") - moved))
    peers.meet()
    assert peers.agree
    np.testing.assert_allclose(peers.flat("anna"), mean + 0.5 * (moved - mean), rtol=1e-4, atol=1e-6)
    assert peers.logs["ben"].metrics["averaged"] == 3
    assert peers.logs["ben"].metrics["distance"] == pytest.approx(distance, rel=1e-3)


def test_in_bfloat16_all_peers_still_get_the_same_bits() -> None:
    peers = Peers(Average(min_peers=2))
    for _ in range(3):
        peers.train()
        peers.meet()
    assert peers.agree
    sent = vector_of(peers.node.offer(peers.policies["anna"], OuterState(peers.flat("ben"), peers.flat("ben"))))
    assert not (sent.view(np.uint32) & 0xFFFF).any()


def test_who_missed_an_average_is_refused_once_and_all_begin_anew_together() -> None:
    peers = Peers(Average(min_peers=2))
    peers.train()
    peers.meet()
    peers.train()
    peers.meet("anna", "ben")
    assert not peers.agree
    peers.train()
    peers.meet()
    assert peers.logs["anna"].facts["averaged"] == ["anna", "ben"]
    assert peers.logs["anna"].facts["refused_weights"]["cleo"].startswith("start: its last average was")
    assert peers.logs["cleo"].facts["averaged"] == ["cleo"]
    peers.train()
    peers.meet()
    assert peers.agree
    peers.train()
    peers.meet()
    assert peers.agree and peers.logs["cleo"].metrics["averaged"] == 3


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda flat: flat[:-1], r"shape: 1 rows of \d+ numbers, ours are 1 of \d+"),
        (lambda flat: np.where(np.arange(len(flat)) == 7, np.nan, flat), "finite: some numbers are not finite"),
        (lambda flat: flat * 1000, r"norm: .* above .* \(10 times the median\)"),
    ],
)
def test_weights_that_cannot_be_are_refused_with_a_reason(spoil: object, reason: str) -> None:
    peers = Peers(Average(min_peers=2))
    _, layout = flat_weights(peers.policies["cleo"])
    bad = weight_rows(np.asarray(spoil(peers.flat("cleo")), np.float32), layout=layout, start="")  # type: ignore[operator]
    peers.meet(instead={"cleo": bad})
    log = peers.logs["anna"]
    assert log.facts["averaged"] == ["anna", "ben"]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(log.facts["refused_weights"]["cleo"])
    assert log.metrics["refused_weights"] == 1


def test_weights_of_another_model_are_refused() -> None:
    peers = Peers(Average(min_peers=2))
    flat, _ = flat_weights(peers.policies["cleo"])
    peers.meet(instead={"cleo": weight_rows(flat, layout="another", start="")})
    assert peers.logs["ben"].facts["refused_weights"] == {"cleo": "layout: the weights are those of another model"}


def test_garbage_of_ordinary_size_moves_the_mean_and_the_median_holds() -> None:
    far = {}
    for how in ("mean", "median"):
        peers = Peers(Average(min_peers=2, combine=how, max_norm_ratio=None), ("anna", "ben", "cleo", "dan"))
        before, layout = flat_weights(peers.policies["dan"])
        garbage = 100 * np.random.default_rng(1).standard_normal(len(before)).astype(np.float32)
        peers.meet(instead={"dan": weight_rows(garbage, layout=layout, start="")})
        far[how] = float(np.linalg.norm(peers.flat("anna") - before))
    assert far["median"] < 1e-4 < 100 < far["mean"]


def test_long_vectors_are_many_rows() -> None:
    flat = np.arange(2 * ROW_VALUES + 5, dtype=np.float32)
    rows = weight_rows(flat, layout="one", start="")
    assert rows.values("first") == [0, ROW_VALUES, 2 * ROW_VALUES]
    assert np.array_equal(vector_of(rows), flat)


def test_the_outer_state_is_saved_exactly_also_empty(tmp_path: Path) -> None:
    for at, state in enumerate((OuterState(), OuterState(np.ones(3, np.float32), np.zeros(3, np.float32)))):
        folder = tmp_path / str(at)
        folder.mkdir()
        state.save(folder)
        other = OuterState(np.full(2, 9.0, np.float32), np.zeros(2, np.float32))
        other.load(folder)
        assert (other.digest(), other.start) == (state.digest(), state.start)
    with pytest.raises(StoreError, match="holds no state of an average"):
        OuterState().load(tmp_path)
