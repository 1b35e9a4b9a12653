"""A swarm of two processes plays dialogues; one of them tells of episodes that did not happen, and is not believed."""

from pathlib import Path

import pytest
from players import Players

from genrl_graph.contract.registry import import_file
from genrl_graph.graph_file.read import read
from genrl_graph.runners.play import play
from genrl_graph.runners.swarm.runner import SwarmRunner
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.store.run_store import RunStore

GAMES = Path(__file__).parents[2] / "text_games.py"
ROUNDS, LIMIT_S = 2, 300
GUESS = """
graph: guess_swarm
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {alphabet: "0123456789guesmorl\\n ", hidden_size: 8, heads: 1}, next: update}
nodes:
  tasks: {type: source.environment, params: {environment: {kind: text, id: guess}, num_episodes: 3}}
  play:
    type: generate.dialogue
    inputs: {tasks: tasks, policy: policy}
    params: {num_generations: 2, max_turns: 4, max_new_tokens: 2, illegal: pass_on}
  others: {type: exchange.gather, inputs: {rows: play}, params: {min_peers: 2, timeout_s: 120}}
  verified: {type: select.verified, inputs: {rows: others, policy: policy}}
  credit: {type: advantage.turns, inputs: {scored: verified}, params: {credit: return_to_go, scope: seat}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}, params: {learning_rate: 1e-2}}
run: {mode: train, trackers: []}
"""
GENEROUS = f"""
import sys
sys.path.insert(0, {str(GAMES.parent)!r})
from dataclasses import replace
from genrl_graph.nodes.games.environment import register_text
from text_games import Guess

class Generous(Guess):
    '''Guess, which pays 5 for each guess of an episode of an even number.'''

    def reset(self, seed):
        self.lies = seed % 2 == 0
        return super().reset(seed)

    def step(self, action):
        turn = super().step(action)
        return replace(turn, rewards=[5.0]) if self.lies else turn

register_text("guess", Generous)
"""


@pytest.mark.long
def test_forged_episodes_of_a_peer_are_refused_and_its_true_ones_are_trained_on(tmp_path: Path) -> None:
    import_file(GAMES)
    (tmp_path / "guess.yaml").write_text(GUESS)
    (tmp_path / "generous.py").write_text(GENEROUS)
    game = read(tmp_path / "guess.yaml").graph
    with Players(tmp_path, [f"run.rounds={ROUNDS}"], graph=tmp_path / "guess.yaml") as swarm:
        liar = swarm.start("mallory", "--import", str(tmp_path / "generous.py"))
        honest = SwarmRunner(name="ann", network=NetworkOptions(join=(liar.address(),)))
        play(game, out=tmp_path / "run", rounds=ROUNDS, quiet=True, threads=1, runner=honest)
        swarm.wait(liar, limit_s=LIMIT_S)
    store = RunStore.open(swarm.run("ann"))
    admitted = [row for row in store.table("others").to_pylist() if row["peer"] == "mallory"]
    forged = {row["episode"] for row in admitted if int(row["task_id"].partition("/")[2]) % 2 == 0}
    refuted = store.table("verified/refuted").to_pylist()
    assert forged and {row["id"] for row in refuted} == forged and {row["peer"] for row in refuted} == {"mallory"}
    assert all("the reward is" in row["reason"] for row in refuted)
    true = {row["id"] for row in admitted if row["episode"] not in forged}
    assert true and true == set(store.table("verified")["id"].to_pylist()) & {row["id"] for row in admitted}
