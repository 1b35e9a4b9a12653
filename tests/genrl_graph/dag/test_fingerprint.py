"""Fingerprints cover what peers must agree on, and leave out what they may choose."""

from collections.abc import Callable

import pyarrow as pa
import pytest
from toys import TOY_GAME, Draw, Numbers, Same, ToyPolicyCarry, toy_game

from genrl_graph import Graph
from genrl_graph.dag.fingerprint import full_fingerprint, protocol_fingerprint
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.graph_file.read import Loaded, load

Read = Callable[[str], Loaded]

FREE = [
    ("bias: 3", "bias: 5"),
    ("rate: 1e-6", "rate: 1e-3"),
    ("num_generations: 4", "num_generations: 7"),
    (
        "reward.toy_parity, inputs: {rollouts: answer}",
        "reward.toy_parity, inputs: {rollouts: answer}, params: {weight: 2}",
    ),
    ("nodes:\n", "run: {seed: 7, rounds: 3, peers: 2}\nnodes:\n"),
]
AGREED = [
    ("graph: toy", "graph: other"),
    ("num_tasks: 3", "num_tasks: 4"),
    ("min_peers: 1", "min_peers: 2"),
    ("{min_peers: 1}", "{min_peers: 1, max_peers: 3}"),
    ("seen: answers}", "seen: answers_too}"),
    ("reward.toy_matches", "reward.toy_parity"),
    ("[credit_answer, credit_final]", "[credit_final, credit_answer]"),
    ("[credit_answer, credit_final]", "[credit_final]"),
    ("next: update}", "next: policy}"),
    ("  answer: {", "  first: {type: select.toy_same, inputs: {rows: tasks}}\n  answer: {"),
]


def changed(change: tuple[str, str]) -> str:
    text = TOY_GAME.replace(*change)
    assert text != TOY_GAME
    if "answers_too" in text:
        text += "  answers_too: {type: exchange.gather, inputs: {rows: answer}, params: {min_peers: 1}}\n"
    return text


@pytest.mark.parametrize("change", FREE)
def test_peers_may_differ_in_models_params_and_runs(read: Read, change: tuple[str, str]) -> None:
    other = read(changed(change)).graph
    assert protocol_fingerprint(other) == protocol_fingerprint(toy_game())
    assert full_fingerprint(other) != full_fingerprint(toy_game())


@pytest.mark.parametrize("change", AGREED)
def test_peers_agree_on_topology_exchanges_and_sources(read: Read, change: tuple[str, str]) -> None:
    other = read(changed(change)).graph
    assert protocol_fingerprint(other) != protocol_fingerprint(toy_game())
    assert full_fingerprint(other) != full_fingerprint(toy_game())


def test_both_spellings_have_the_same_fingerprints(read: Read) -> None:
    spelt_out = TOY_GAME.replace("num_tasks: 3", "num_tasks: 3.0, high: 1000, shared: true")
    for text in (TOY_GAME, spelt_out, toy_game().dump()):
        assert protocol_fingerprint(read(text).graph) == protocol_fingerprint(toy_game())
        assert full_fingerprint(read(text).graph) == full_fingerprint(toy_game())
    assert compile_graph(toy_game()).protocol == protocol_fingerprint(toy_game())


def test_the_order_in_which_nodes_are_written_is_no_part_of_the_protocol(read: Read) -> None:
    head, nodes = TOY_GAME.split("nodes:\n")
    lines = nodes.splitlines(keepends=True)
    moved = head + "nodes:\n" + "".join([*lines[10:], *lines[:10]])
    moved = moved.replace("{tasks: tasks, policy: policy}", "{policy: policy, tasks: tasks}")
    assert read(moved).lines() == []
    assert protocol_fingerprint(read(moved).graph) == protocol_fingerprint(toy_game())


def test_a_new_schema_of_rows_is_a_new_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    from genrl_graph import Rollouts

    before = protocol_fingerprint(toy_game())
    monkeypatch.setattr(Rollouts, "version", 2)
    second = protocol_fingerprint(toy_game())
    monkeypatch.setattr(Rollouts, "columns", {**Rollouts.columns, "extra": pa.int64()})
    assert len({before, second, protocol_fingerprint(toy_game())}) == 3


def test_a_new_version_of_a_source_is_a_new_protocol_and_of_a_generator_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = protocol_fingerprint(toy_game()), full_fingerprint(toy_game())
    monkeypatch.setattr(Draw, "class_version", 2)
    drawn = protocol_fingerprint(toy_game()), full_fingerprint(toy_game())
    assert drawn[0] == before[0]
    assert drawn[1] != before[1]
    monkeypatch.setattr(Numbers, "class_version", 2)
    assert protocol_fingerprint(toy_game()) != before[0]


def test_the_run_counts_in_the_full_fingerprint_only() -> None:
    graphs = []
    for rounds in (1, 2):
        graph = Graph("g", run=RunConfig(rounds=rounds))
        graph.carry("policy", ToyPolicyCarry())
        graph.add("kept", Same(), rows=graph.add("tasks", Numbers()))
        graphs.append(graph)
    assert protocol_fingerprint(graphs[0]) == protocol_fingerprint(graphs[1])
    assert full_fingerprint(graphs[0]) != full_fingerprint(graphs[1])


def test_where_a_data_file_lies_is_no_part_of_the_protocol(tmp_path: object) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    text = "graph: g\nversion: 1\nnodes:\n  tasks: {type: source.hf_dataset, params: {path: sums.jsonl}}\n"
    prints = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sums.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
        (folder / "game.yaml").write_text(text)
        prints.append(protocol_fingerprint(load(folder / "game.yaml")))
    assert prints[0] == prints[1]
