"""Averages in a real swarm: the same bits as in one process, and garbage of a peer is refused with a reason."""

import json
from pathlib import Path

import pytest
from averaged import AVERAGED
from players import Player, Players

from genrl_graph.graph_file.read import read
from genrl_graph.runners.play import play
from genrl_graph.runners.swarm.runner import SwarmRunner
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.store.run_store import RunStore

pytestmark = pytest.mark.long
LIMIT_S = 240.0
LIES = """
# Sends noise in place of its weights, a thousand times as large as an honest peer's.
import numpy as np
from genrl_graph.nodes.exchange import average
from genrl_graph.nodes.exchange.weight_rows import flat_weights, weight_rows

def lie(self, policy, outer):
    flat, layout = flat_weights(policy)
    noise = 1000 * np.abs(flat).max() * np.random.default_rng(0).standard_normal(len(flat))
    return weight_rows(noise.astype(np.float32), layout=layout, start=outer.start)

average.Average.offer = lie
"""


@pytest.fixture
def game(tmp_path: Path) -> Path:
    (tmp_path / "game.yaml").write_text(f"{AVERAGED}run: {{rounds: 4, trackers: []}}\n")
    return tmp_path / "game.yaml"


def join(first: Player, name: str, game: Path, swarm: Players, *overrides: str) -> None:
    """Play a peer in this process, which joins the swarm of the first one."""
    runner = SwarmRunner(name=name, network=NetworkOptions(join=(first.address(),)))
    graph = read(game, list(overrides)).graph
    play(graph, out=swarm.run(name).parent, quiet=True, threads=1, runner=runner)


def digests(run: Path, holder: str) -> list[str]:
    """Return the digests that each update and average gave, in order."""
    steps = [step for step in RunStore.open(run).steps().to_pylist() if step["holder"] == holder]
    return [json.dumps(facts["digests"]) for step in steps if "digests" in (facts := json.loads(step["facts"]))]


def averages(run: Path) -> list[dict[str, object]]:
    """Return the facts of the averages of a run, in order."""
    steps = RunStore.open(run).steps().to_pylist()
    facts = [json.loads(step["facts"]) for step in steps if step["node"] == "average"]
    return [fact for fact in facts if "averaged" in fact]


def test_two_processes_average_to_the_bits_of_two_peers_of_one_process(game: Path, tmp_path: Path) -> None:
    names = ("peer0000", "peer0001")
    play(read(game, ["run.peers=2"]).graph, out=tmp_path / "local", quiet=True, threads=1)
    with Players(tmp_path, graph=game) as swarm:
        first = swarm.start(names[0])
        join(first, names[1], game, swarm)
        swarm.wait(first, limit_s=LIMIT_S)
    for name in names:
        assert digests(swarm.run(name), name) == digests(tmp_path / "local", name)
    assert len(set(digests(tmp_path / "local", names[0]))) == 8, "every update and every average moved the weights"


def test_noise_of_a_peer_is_refused_and_the_others_stay_equal(game: Path, tmp_path: Path) -> None:
    (tmp_path / "lies.py").write_text(LIES)
    with Players(tmp_path, ["nodes.average.params.min_peers=3"], graph=game) as swarm:
        ann = swarm.start("ann")
        mallory = swarm.start("mallory", "--import", str(tmp_path / "lies.py"), join=ann.address())
        join(ann, "bob", game, swarm, *swarm.arguments)
        swarm.wait(ann, mallory, limit_s=LIMIT_S)
    for name in ("ann", "bob"):
        first = averages(swarm.run(name))[0]
        assert first["averaged"] == ["ann", "bob"]
        assert str(first["refused_weights"]["mallory"]).startswith("norm: ")  # type: ignore[index]
    assert digests(swarm.run("ann"), "ann")[-1] == digests(swarm.run("bob"), "bob")[-1]
