"""The tiny games: the same seed gives the same bytes, they learn, and what they store is what they trained on."""

import contextlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import zarr

from genrl_graph import Graph, Rollouts, TextPolicy, load, play
from genrl_graph.cli import run_command
from genrl_graph.contract.node import PolicyCarry
from genrl_graph.nodes.update.steps.training import prompt_digest
from genrl_graph.store.run_store import RunStore

PEERS = ("peer0000", "peer0001")
GENERATORS = ("answer", "critique", "final")
ROUNDS = 3


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def array(rollouts: Path, name: str) -> Any:
    """A column as zarr itself reads it."""
    return zarr.open_array(rollouts, path=name, mode="r")


@pytest.fixture(scope="module")
def stores(graphs: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> list[Path]:
    """The rollouts of three runs of tiny.yaml: of one seed twice, and of another."""
    folder = tmp_path_factory.mktemp("tiny")
    graph = load(graphs / "tiny.yaml")
    runs = [play(graph, out=folder / str(at), rounds=3, seed=seed, quiet=True) for at, seed in enumerate((0, 0, 1))]
    return [run.rollouts for run in runs]


def test_the_same_seed_gives_the_same_bytes(stores: list[Path]) -> None:
    first, second = contents(stores[0]), contents(stores[1])
    assert len(first) > 100
    assert first == second


def test_another_seed_gives_other_tasks_and_completions(stores: list[Path]) -> None:
    first, other = (RunStore.open(stores[at].parent) for at in (0, 2))
    assert first.table("tasks")["id"] != other.table("tasks")["id"]
    assert first.table("answer")["completion"] != other.table("answer")["completion"]
    assert contents(stores[0]) != contents(stores[2])


def test_three_rounds_of_tiny_hold_every_row(stores: list[Path]) -> None:
    store = RunStore.open(stores[0].parent)
    assert {name: store.table(name).num_rows for name in ("tasks", "answer", "score", "credit")} == {
        "tasks": 3 * 32,
        "answer": 3 * 32 * 16,
        "score": 3 * 32 * 16,
        "credit": 3 * 32 * 16,
    }
    assert [(step["round"], step["node"]) for step in store.steps().to_pylist()] == [
        (round, node) for round in range(3) for node in ("tasks", "answer", "score", "credit", "update")
    ]


def test_tiny_learns_with_its_own_params(graphs: Path, tmp_path: Path, one_thread: None) -> None:
    """Chance is 0.08. Measured over five seeds: rounds 1 to 3 pay 0.05 to 0.08, rounds 51 to 60 pay 0.84 to 0.90."""
    run = play(load(graphs / "tiny.yaml"), out=tmp_path / "run", rounds=60, quiet=True)
    rewards = np.asarray(array(run.rollouts, "score/reward")[:]).reshape(60, -1).mean(axis=1)
    assert rewards[:3].mean() < 0.15
    assert rewards[-10:].mean() > 0.6


@dataclass(frozen=True)
class Played:
    """A finished run of tiny_multistage.yaml from the command line."""

    graph: Graph
    folder: Path
    printed: str
    store: RunStore

    def rows(self, group: str) -> list[dict[str, Any]]:
        """The rows of a group."""
        rows: list[dict[str, Any]] = self.store.table(group).to_pylist()
        return rows

    def rollouts(self, node: str) -> Rollouts:
        """All rollouts of a generator."""
        return Rollouts(self.store.table(node).select(list(Rollouts.columns)))

    def policy(self, peer: str) -> TextPolicy:
        """A fresh policy that became what the last checkpoint holds."""
        carry = self.graph.carries["policy"].carry
        assert isinstance(carry, PolicyCarry)
        policy = carry.init("policy", seed=99)
        assert isinstance(policy, TextPolicy)
        policy.load(self.folder / "checkpoints" / f"{ROUNDS:06d}" / peer / "policy")
        return policy


@pytest.fixture(scope="module")
def played(graphs: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Played:
    """Three rounds of two peers."""
    path, folder = graphs / "tiny_multistage.yaml", tmp_path_factory.mktemp("multistage") / "run"
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        assert run_command(["run", str(path), "-o", str(folder), f"run.rounds={ROUNDS}"]) == 0
    return Played(load(path), folder, printed.getvalue(), RunStore.open(folder))


def test_every_peer_and_stage_has_its_rows(played: Played) -> None:
    each = ROUNDS * len(PEERS) * 16 * 8
    rows = {name: played.store.table(name).num_rows for name in played.store.groups()}
    assert rows == {
        "tasks": ROUNDS * len(PEERS) * 16,
        "answer": each,
        "answers": each,  # of the other peer
        "score_answer": each,
        "credit_answer": each,
        "critique": each,
        "critiques": each,
        "score_critique": each,
        "credit_critique": each,
        "final": each,
        "score_final": each,
        "credit_final": each,
        "update/trained": rows["update/trained"],
    }
    assert set(played.store.table("answer")["stage"].to_pylist()) == {0}
    assert set(played.store.table("critique")["stage"].to_pylist()) == {1}
    assert set(played.store.table("final")["stage"].to_pylist()) == {2}


def test_ids_are_unique_per_holder(played: Played) -> None:
    own = [row["id"] for node in GENERATORS for row in played.rows(node)]
    assert len(set(own)) == len(own)
    for peer in PEERS:
        held = [row["id"] for row in played.rows("answers") if row["holder"] == peer]
        assert len(set(held)) == len(held) == ROUNDS * 16 * 8


def test_every_parent_is_in_the_store_and_of_the_same_task_and_round(played: Played) -> None:
    known = {row["id"]: row for node in GENERATORS for row in played.rows(node)}
    parents: dict[str, list[str]] = {
        "answer": [],
        "critique": ["answer"] * 2,
        "final": ["answer"] * 2 + ["critique"] * 2,
    }
    for node in GENERATORS:
        for row in played.rows(node):
            quoted = [known[parent] for parent in row["parent_ids"]]
            assert [parent["node"] for parent in quoted] == parents[node]
            assert [parent["peer"] for parent in quoted] == [*PEERS] * (len(quoted) // 2)
            assert {(parent["task_id"], parent["round"]) for parent in quoted} <= {(row["task_id"], row["round"])}


def test_what_a_peer_admitted_is_what_the_other_one_made(played: Played) -> None:
    made = {row["id"]: row for row in played.rows("answer")}
    for row in played.rows("answers"):
        assert row["holder"] != row["peer"]
        mine = made[row["id"]]
        assert {name: row[name] for name in Rollouts.columns} == {name: mine[name] for name in Rollouts.columns}


def test_a_prompt_quotes_its_parents(played: Played) -> None:
    known = {row["id"]: row for node in GENERATORS for row in played.rows(node)}
    questions = {row["id"]: row["messages"][-1]["content"] for row in played.rows("tasks")}
    for row in played.rows("critique"):
        first, second = (known[parent]["completion"] for parent in row["parent_ids"])
        assert row["messages"][-1]["content"] == f"{questions[row['task_id']]}1:{first}2:{second}?"


def test_token_ids_are_those_of_the_stored_text(played: Played) -> None:
    policy = played.policy("peer0000")
    for node in GENERATORS:
        rows = played.rollouts(node)
        assert set(rows.values("tokenizer_fingerprint")) == {policy.tokenizer_fingerprint}
        for ids, text in zip(rows.ragged("completion_ids"), rows.values("completion"), strict=True):
            assert policy.decode(ids.tolist()) == text
        for ids, messages in zip(rows.ragged("prompt_ids"), rows.values("messages"), strict=True):
            assert np.array_equal(policy.render(messages), ids)


def test_the_prompts_trained_on_are_those_sampled_from(played: Played) -> None:
    sampled: dict[str, str] = {}
    advantages: dict[str, float] = {}
    for node in GENERATORS:
        rows = played.rollouts(node)
        sampled |= dict(zip(rows.values("id"), map(prompt_digest, rows.ragged("prompt_ids")), strict=True))
        advantages |= {str(row["id"]): float(row["advantage"]) for row in played.rows(f"credit_{node}")}
    trained = played.rows("update/trained")
    assert {row["id"]: row["prompt_digest"] for row in trained} == {
        name: sampled[name] for name, advantage in advantages.items() if advantage != 0.0
    }
    assert len(trained) > 500
    assert np.allclose([row["ratio"] for row in trained], 1.0, atol=1e-3)


def test_every_column_is_a_typed_array(played: Played) -> None:
    def stored(name: str) -> Any:
        return array(played.folder / "rollouts.zarr", name)

    rows = stored("score_answer/reward").shape[0]
    types = {
        "score_answer/reward": np.float64,
        "score_answer/reward_correct": np.float64,
        "credit_answer/advantage": np.float64,
        "answer/round": np.int32,
        "answer/stage": np.int32,
        "answer/policy_version": np.int64,
        "answer/temperature": np.float32,
        "answer/logprobs/values": np.float32,
        "answer/prompt_ids/values": np.int32,
        "answer/completion_ids/values": np.int32,
        "answer/completion_mask/values": np.int8,
    }
    assert {name: stored(name).dtype for name in types} == {name: np.dtype(kind) for name, kind in types.items()}
    for name in ("score_answer/id", "answer/completion", "answer/peer", "update/trained/prompt_digest"):
        assert all(isinstance(value, str) for value in stored(name)[:]), name
    assert rows == ROUNDS * len(PEERS) * 16 * 8
    assert stored("answer/completion_ids/offsets").shape == (rows + 1,)
    types_read = {field.name: field.type for field in played.store.table("update/trained").schema}
    assert types_read["ratio"] == pa.float64()
    assert types_read["round"] == pa.int32()


def test_a_finished_run_is_all_in_zarr(played: Played) -> None:
    journal = [path for path in (played.folder / "journal").rglob("*") if path.is_file() and path.stat().st_size]
    assert journal == []
    assert array(played.folder / "rollouts.zarr", "steps/round").shape == (played.store.steps().num_rows,)


def test_the_stored_graph_is_the_one_that_was_played(played: Played, graphs: Path) -> None:
    assert load(played.folder / "graph.yaml") == load(graphs / "tiny_multistage.yaml", [f"run.rounds={ROUNDS}"])


def test_metrics_have_one_line_a_round_and_peer(played: Played) -> None:
    lines = [json.loads(line) for line in (played.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["round"], line["peer"]) for line in lines] == [(at, peer) for at in range(ROUNDS) for peer in PEERS]
    rewards = played.store.table("score_critique")
    for line in lines:
        mine = rewards.filter((pc.field("round") == line["round"]) & (pc.field("holder") == line["peer"]))
        assert line["score_critique/reward"] == pytest.approx(float(np.mean(mine["reward"].to_numpy())))
        assert line["critique/tokens"] == 16 * 8
        assert line["time/round"] > 0


def test_checkpoints_load_back_into_the_policies_that_the_run_printed(played: Played) -> None:
    printed = dict(re.findall(r"^(peer\d+) policy: weights [0-9a-f]+ -> ([0-9a-f]+)$", played.printed, re.MULTILINE))
    assert set(printed) == set(PEERS)
    for peer in PEERS:
        policy = played.policy(peer)
        assert policy.digest().startswith(printed[peer])
        assert policy.version == ROUNDS
    assert printed[PEERS[0]] != printed[PEERS[1]]
