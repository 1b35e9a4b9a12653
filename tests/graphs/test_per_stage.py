"""Per round becomes per stage by editing two edges: what the next stage samples from is what the edge says.

A tiny model plays both games, and every stored log-prob is computed again: the updates are applied once more, from
the stored rollouts and advantages alone, and the weights of each stage are asked for the log-probs of each node.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from genrl_graph import Graph, Log, Rollouts, TextPolicy, credit, load, play, score
from genrl_graph.contract.node import PolicyCarry
from genrl_graph.contract.policy import TokenSequence
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.runners.play import Run
from genrl_graph.seeds import stream
from genrl_graph.store.run_store import RunStore

EDGES = ["nodes.critique.inputs.policy=update_answer", "nodes.final.inputs.policy=update_critique"]
UPDATES = {"update_answer": "answer", "update_critique": "critique", "update": "final"}
STAGES = ("answer", "critique", "final")
PEERS = ("peer0000", "peer0001")
ROUNDS, SEED = 2, 3

QUOTING = "{{ task.question[-8:] }}{% for answer in answers %}{{ answer.number }}{{ answer.completion }}{% endfor %}"
TINY = [  # a random model that writes eight characters and is paid for digits, so that most groups vary
    "carry.policy.type=policy.tiny_lm",
    "~carry.policy.params.model",
    *(f"nodes.{name}.params.max_new_tokens=8" for name in STAGES),
    *(f"nodes.score_{name}.type=reward.regex" for name in STAGES),
    *(f"nodes.score_{name}.params.pattern='[0-9]'" for name in STAGES),
    *(f"~nodes.score_{name}.params.format" for name in ("answer", "final")),
    "~nodes.score_critique.inputs.answers",
    *(f"nodes.{name}.params.learning_rate=2e-3" for name in UPDATES),
    "nodes.answer.params.template='{{ task.question[-8:] }}'",
    *(f"nodes.{name}.params.template='{QUOTING}'" for name in ("critique", "final")),
]


@dataclass(frozen=True)
class Game:
    """A played game."""

    graph: Graph
    run: Run
    tables: dict[str, pa.Table]

    def rows(self, node: str, peer: str, round: int) -> pa.Table:
        """Return the rows that a node output for a peer in a round."""
        table = self.tables[node]
        return table.filter((pc.field("holder") == peer) & (pc.field("round") == round))


def played(path: Path, overrides: list[str], out: Path) -> Game:
    graph = load(path, [*TINY, *overrides])
    run = play(graph, out=out, rounds=ROUNDS, peers=len(PEERS), seed=SEED, quiet=True)
    store = RunStore.open(out)
    return Game(graph, run, {name: store.table(name) for name in ("steps", *store.groups())})


@pytest.fixture(scope="module")
def per_round(graphs: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Game:
    """The game that updates at the end of the round."""
    return played(graphs / "multistage_math" / "reasoning_gym.yaml", [], tmp_path_factory.mktemp("round") / "run")


@pytest.fixture(scope="module")
def per_stage(graphs: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Game:
    """The same file with two edges edited on the command line."""
    return played(graphs / "multistage_math" / "reasoning_gym.yaml", EDGES, tmp_path_factory.mktemp("stage") / "run")


def test_two_edited_edges_give_the_graph_of_the_per_stage_file(graphs: Path) -> None:
    folder = graphs / "multistage_math"
    edited = load(folder / "reasoning_gym.yaml", EDGES)
    shipped = load(folder / "reasoning_gym_per_stage.yaml")
    assert edited != shipped
    assert load(folder / "reasoning_gym.yaml", [*EDGES, f"graph={shipped.name}"]) == shipped
    before, after = set(load(folder / "reasoning_gym.yaml").edges()), set(shipped.edges())
    assert {(edge.reader, edge.socket, edge.ref) for edge in after - before} == {
        ("critique", "policy", "update_answer"),
        ("final", "policy", "update_critique"),
    }
    assert {(edge.reader, edge.socket, edge.ref) for edge in before - after} == {
        ("critique", "policy", "policy"),
        ("final", "policy", "policy"),
    }


def test_the_version_column_says_which_weights_sampled(per_round: Game, per_stage: Game) -> None:
    for game, moved in ((per_round, (0, 0, 0)), (per_stage, (0, 1, 2))):
        for peer in PEERS:
            for round in range(ROUNDS):  # three updates a round, one step each
                versions = [set(game.rows(node, peer, round)["policy_version"].to_pylist()) for node in STAGES]
                assert versions == [{3 * round + steps} for steps in moved]


@pytest.mark.parametrize("peer", PEERS)
def test_per_round_every_stage_samples_from_the_weights_of_the_rounds_start(per_round: Game, peer: str) -> None:
    assert sampled_from(per_round, peer) == {(round, node): ["policy"] for round in range(ROUNDS) for node in STAGES}


@pytest.mark.parametrize("peer", PEERS)
def test_per_stage_a_stage_samples_from_the_weights_that_the_one_before_trained(per_stage: Game, peer: str) -> None:
    reads = {"answer": "policy", "critique": "update_answer", "final": "update_critique"}
    assert sampled_from(per_stage, peer) == {(round, node): [reads[node]] for round in range(ROUNDS) for node in STAGES}


def test_both_games_sample_the_first_stage_alike_and_the_second_not(per_round: Game, per_stage: Game) -> None:
    def texts(game: Game, node: str) -> list[str]:
        return [text for peer in PEERS for text in game.rows(node, peer, 0)["completion"].to_pylist()]

    assert texts(per_round, "answer") == texts(per_stage, "answer")
    assert texts(per_round, "critique") != texts(per_stage, "critique")


def sampled_from(game: Game, peer: str) -> dict[tuple[int, str], list[str]]:
    """For each round and node, the weights under which the stored log-probs are those that were stored."""
    found: dict[tuple[int, str], list[str]] = {}
    for round, weights in enumerate(trained_again(game, peer)):
        for node in STAGES:
            rows = rollouts(game, node, peer, round)
            distances = {ref: distance(policy, rows) for ref, policy in weights.items()}
            assert all(far < 1e-4 or far > 0.05 for far in distances.values()), distances
            found[round, node] = [ref for ref, far in distances.items() if far < 1e-4]
    return found


def trained_again(game: Game, peer: str) -> list[dict[str, TextPolicy]]:
    """The weights of each round by the name of what gives them, from stored rollouts and advantages alone."""
    carry = game.graph.carries["policy"].carry
    assert isinstance(carry, PolicyCarry)
    policy = carry.init("policy", seed=SEED)
    assert isinstance(policy, TextPolicy)
    assert policy.digest() == game.run.before[peer, "policy"]
    rounds = []
    for round in range(ROUNDS):
        weights = {"policy": policy.fork("policy")}
        for name, node in UPDATES.items():
            update = game.graph.nodes[name].node
            assert isinstance(update, Grpo)
            advantages = game.rows(f"credit_{node}", peer, round)["advantage"].to_numpy()
            rows = credit(score(rollouts(game, node, peer, round), {}), advantages)
            rng = stream(SEED, round, name, peer)
            policy = update.run(policy, [rows], rng=rng, log=Log(), peer=peer)
            assert policy.digest() == recorded_digest(game, name, peer, round)
            weights[name] = policy.fork("policy")
        rounds.append(weights)
    assert policy.digest() == game.run.after[peer, "policy"]
    return rounds


def rollouts(game: Game, node: str, peer: str, round: int) -> Rollouts:
    return Rollouts(game.rows(node, peer, round).select(list(Rollouts.columns)))


def recorded_digest(game: Game, update: str, peer: str, round: int) -> str:
    """The digest that the run journaled for the weights after an update."""
    (step,) = [step for step in game.rows("steps", peer, round).to_pylist() if step["node"] == update]
    digest = json.loads(step["facts"])["digests"][update]
    assert isinstance(digest, str)
    return digest


def distance(policy: TextPolicy, rows: Rollouts) -> float:
    """The largest difference between the stored log-probs of rows and those of a policy."""
    pairs = zip(rows.ragged("prompt_ids"), rows.ragged("completion_ids"), strict=True)
    with torch.no_grad():
        sequences = [TokenSequence(prompt, completion) for prompt, completion in pairs]
        found = policy.logprobs(sequences, temperatures=rows.numpy("temperature")).numpy()
    stored = rows.ragged("logprobs")
    return max(float(np.abs(found[at, : len(row)] - row).max()) for at, row in enumerate(stored))
