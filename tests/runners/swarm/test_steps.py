"""Games in steps as a swarm of two processes: they share trajectories and match two peers of one process."""

from pathlib import Path

import pytest
from players import Players
from ranks import ROOT, digests_of, rows_of

from genrl_graph.graph_file.read import read
from genrl_graph.runners.play import play
from genrl_graph.runners.swarm.runner import SwarmRunner
from genrl_graph.runners.swarm.transport.network import NetworkOptions

GAMES = ROOT / "graphs" / "games"
PEERS = ("peer0000", "peer0001")
ROUNDS = 3
LIMIT_S = 120.0
COMMON = ("run.mode=train", "run.eval_every=0", "run.trackers=[]", f"run.rounds={ROUNDS}")
SMALL = {
    "tic_tac_toe_swarm": (*COMMON, "nodes.tasks.params.num_episodes=16", "nodes.games.params.min_peers=2"),
    "cartpole_swarm": (*COMMON, "nodes.tasks.params.num_episodes=4", "nodes.episodes.params.min_peers=2"),
}


@pytest.mark.parametrize("name", [pytest.param("tic_tac_toe_swarm", marks=pytest.mark.soak), "cartpole_swarm"])
@pytest.mark.long
def test_two_processes_share_their_games(name: str, tmp_path: Path) -> None:
    file, local = GAMES / f"{name}.yaml", tmp_path / "local"
    game = read(file, SMALL[name]).graph
    play(game, out=local, quiet=True, threads=1)
    with Players(tmp_path) as swarm:
        own = ("--runner", "swarm", "--peer-name", PEERS[0], "-o", str(tmp_path / "run"))
        first = swarm.launch(PEERS[0], ["-m", "genrl_graph", "run", str(file), *own, *SMALL[name]], {})
        second = SwarmRunner(name=PEERS[1], network=NetworkOptions(join=(first.address(),)))
        play(game, out=tmp_path / "run", quiet=True, threads=1, runner=second)
        swarm.wait(first, limit_s=LIMIT_S)
    for peer in PEERS:
        here, there = rows_of(local, peer), rows_of(swarm.run(peer), peer)
        assert here.keys() == there.keys()
        for group, rows in here.items():
            assert rows.equals(there[group]), (peer, group)
        assert digests_of(local, peer) == digests_of(swarm.run(peer), peer)
        taken = there["games" if "games" in there else "episodes"]
        assert set(taken["peer"].to_pylist()) == set(PEERS) - {peer}
