"""Swarm sampling: every peer asks its own tasks, judges all answers itself, and learns from other peers' too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from genrl_graph import Graph, R, RunConfig, Select, load
from genrl_graph.contract.node import Carry
from genrl_graph.contract.policy import Carried
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.library import (
    Answer,
    Gather,
    GroupAdvantage,
    Grpo,
    HfDataset,
    Mix,
    RegexReward,
    SwarmSapo,
    TinyLM,
)
from genrl_graph.runners.play import Run, play_schedule
from genrl_graph.store.run_store import RunStore

MIXES = [(8, 0), (6, 2), (4, 4), (2, 6)]
ALPHABETS = ("0123456789+=", "=+9876543210")


@pytest.mark.parametrize(("own", "external"), MIXES)
def test_the_files_set_two_numbers_and_nothing_else(graphs: Path, own: int, external: int) -> None:
    folder, name = graphs / "swarm_sapo", f"own_{own}_external_{external}"
    set_by_hand = ("own_groups", own), ("external_groups", external)
    changes = [f"graph=swarm_sapo_{name}", *(f"nodes.chosen.params.{param}={value}" for param, value in set_by_hand)]
    assert load(folder / f"{name}.yaml") == load(folder / "sapo.yaml", changes)


def test_every_task_that_another_peer_may_ask_is_made_again_from_its_id(graphs: Path) -> None:
    first, second = (
        compile_graph(load(graphs / "swarm_sapo" / f"own_{own}_external_{external}.yaml")).nodes["tasks"]
        for own, external in MIXES[:2]
    )
    assert isinstance(first, Mix) and isinstance(second, Mix)
    assert not first.shared and len(first.members) == 9
    asked = [
        row for round in range(6) for row in first.run(rng=np.random.default_rng(1), round=round).rows()
    ]  # by a peer with another stream of tasks
    assert {row["id"].split("/")[1] for row in asked} == set(first.members)
    own = second.run(rng=np.random.default_rng(2), round=0)
    assert not {row["id"] for row in asked} & set(own.values("id"))
    book = TaskBook({"tasks": second})
    assert [(book[row["id"]].messages, book[row["id"]].answer) for row in asked] == [
        (row["messages"], row["answer"]) for row in asked
    ]


class FailsOnce(Select, name="swarm_sapo_fails_once"):
    """Fails in a round as long as it is told to."""

    def run(self, rows: R, *, round: int) -> R:
        if round == FAILS_IN:
            raise ValueError("the power went out")
        return rows


FAILS_IN = -1


def digit_game(graphs: Path, *, own: int, external: int) -> Graph:
    """Sums of two digits, each peer its own; two steps a round, so that old log-probs matter."""
    graph = Graph("sapo_digits", run=RunConfig(rounds=4, peers=2, checkpoint_every=2, trackers=()))
    policy = graph.carry("policy", TinyLM(alphabet=ALPHABETS[0], hidden_size=16, layers=1, initializer_range=0.1))
    path = str(graphs / "data" / "digit_sums.jsonl")
    tasks = graph.add("tasks", HfDataset(path=path, num_tasks=8, shared=False))
    answer = Answer(template="{{ task.question }}", num_generations=8, max_new_tokens=2)
    shared = graph.add("shared", Gather(min_peers=2), rows=graph.add("answer", answer, tasks=tasks, policy=policy))
    score = graph.add("score", RegexReward(pattern=r"^(\d)", compare=True), rollouts=shared)
    credit = graph.add("credit", GroupAdvantage(), scored=score)
    steady = graph.add("steady", FailsOnce(), rows=credit)
    chosen = graph.add("chosen", SwarmSapo(own_groups=own, external_groups=external), rows=steady)
    update = Grpo(learning_rate=1e-2, epochs=2, max_batch_tokens=65536)
    graph.next_round(policy=graph.add("update", update, policy=policy, credited=[chosen]))
    return graph


def two_readers() -> Callable[[Carry, str, int], Carried]:
    """Makes the policies of two peers, each with an alphabet of its own."""
    alphabets = iter(ALPHABETS)

    def make(carry: Carry, name: str, seed: int) -> Carried:
        assert isinstance(carry, TinyLM)
        return carry.model_copy(update={"alphabet": next(alphabets)}).init(name, seed=seed)

    return make


def play_two(graph: Graph, folder: Path, *, resume: bool = False) -> Run:
    quiet = Console(quiet=True)
    schedule = compile_graph(graph)
    return play_schedule(
        schedule, graph.run, folder=folder, console=quiet, imports={}, make=two_readers(), resume=resume
    )


def test_peers_with_different_tokenizers_learn_from_each_other_and_a_cut_run_goes_on_to_the_same_weights(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    graph = digit_game(graphs, own=1, external=2)
    whole = play_two(graph, tmp_path / "whole")
    with RunStore.open(tmp_path / "whole") as store:
        trained, metrics = store.table("update/trained").to_pylist(), update_metrics(store)
        author = {row["id"]: row["peer"] for row in store.table("answer").to_pylist()}
    crossed = [row for row in trained if author[row["id"]] != row["holder"]]
    assert {row["holder"] for row in crossed} == {"peer0000", "peer0001"}
    assert sum(m["external"] for m in metrics) == sum(m["retokenised"] for m in metrics) == len(crossed)
    assert sum(m["external_left_out"] for m in metrics) < len(crossed) / 2  # a random policy ends with <unk> at times

    monkeypatch.setitem(globals(), "FAILS_IN", 3)
    with pytest.raises(NodeFailed, match="the power went out"):
        play_two(graph, tmp_path / "cut")
    monkeypatch.setitem(globals(), "FAILS_IN", -1)
    assert play_two(graph, tmp_path / "cut", resume=True).after == whole.after


def update_metrics(store: RunStore) -> list[dict[str, Any]]:
    """Return the metrics of the updates of all peers and rounds."""
    return [json.loads(step["facts"])["metrics"] for step in store.steps().to_pylist() if step["node"] == "update"]
