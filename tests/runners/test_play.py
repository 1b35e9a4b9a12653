"""Whole runs in one process: their stores, bit-identical repetition, and the folder of a failed run."""

import json
from pathlib import Path
from typing import Any

import pytest
import zarr
from toys import (
    Add,
    Broken,
    Centred,
    Draw,
    Numbers,
    Parity,
    Same,
    Split,
    StepBoth,
    TotalCarry,
    ToyPolicy,
    ToyPolicyCarry,
    toy_game,
)

from genrl_graph import Frame, Graph, R, Select, Source, Task, Tasks, play
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.errors import DataError, ExchangeTimeout, GraphError, NodeFailed, ParamError, RewardFailed, StoreError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.runners.play import Run
from genrl_graph.store.run_store import RunStore


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three rounds of the toy game with two peers."""
    return play(toy_game(), out=tmp_path_factory.mktemp("runs") / "run", rounds=3, peers=2, quiet=True)


@pytest.fixture(scope="module")
def store(run: Run) -> RunStore:
    """The store of the run."""
    return RunStore.open(run.folder)


def test_a_run_ends_with_all_its_files(run: Run) -> None:
    assert (run.folder / "graph.yaml").exists()
    assert run.rollouts.is_dir()
    assert run.rounds == 3
    assert contents(run.folder / "journal") == {}
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 6
    assert sorted(path.name for path in (run.folder / "events").iterdir()) == ["peer0000", "peer0001"]
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["000003"]


def test_the_same_seed_gives_the_same_store_bit_by_bit(run: Run, tmp_path: Path) -> None:
    again = play(toy_game(), out=tmp_path / "again", rounds=3, peers=2, quiet=True)
    assert contents(again.rollouts) == contents(run.rollouts)
    assert contents(again.folder / "checkpoints") == contents(run.folder / "checkpoints")
    assert (again.before, again.after) == (run.before, run.after)
    other = play(toy_game(), out=tmp_path / "other", rounds=3, peers=2, seed=1, quiet=True)
    assert contents(other.rollouts) != contents(run.rollouts)


def test_a_longer_run_begins_like_a_shorter_one(store: RunStore, tmp_path: Path) -> None:
    longer = RunStore.open(play(toy_game(), out=tmp_path / "longer", rounds=4, peers=2, quiet=True).folder)
    assert longer.groups() == store.groups()
    for group in store.groups():
        assert longer.table(group, range(3)).equals(store.table(group)), group


def test_a_third_peer_leaves_alone_what_the_others_draw(store: RunStore, tmp_path: Path) -> None:
    three = RunStore.open(play(toy_game(), out=tmp_path / "three", rounds=1, peers=3, quiet=True).folder)
    mine = three.table("answer", range(1)).to_pylist()
    assert [row for row in mine if row["peer"] != "peer0002"] == store.table("answer", range(1)).to_pylist()


def test_the_store_holds_full_rows_where_they_are_made_and_ids_elsewhere(store: RunStore) -> None:
    names = {group: store.table(group).column_names for group in store.groups()}
    assert list(names) == [
        "tasks",
        "answer",
        "answers",
        "final",
        "score_answer",
        "credit_answer",
        "score_final",
        "match_final",
        "best",
        "best/kept",
        "credit_final",
        "update/trained",
    ]
    assert names["score_answer"] == ["id", "reward", "reward_even", "reward_short", "round", "holder"]
    assert names["match_final"] == ["id", "reward", "reward_match", "round", "holder"]
    assert names["best"] == ["id", "round", "holder"]
    assert names["credit_answer"] == ["id", "advantage", "round", "holder"]
    assert names["answers"] == names["final"] == names["answer"]
    assert [store.table(group).num_rows for group in ("tasks", "answer", "answers", "final")] == [18, 36, 36, 72]


def test_an_external_row_stands_once_for_each_holder_and_never_for_its_author(store: RunStore) -> None:
    made = {row["id"]: row for row in store.table("answer").to_pylist()}
    external = store.table("answers").to_pylist()
    assert len({row["id"] for row in external}) == len(external) == len(made)
    for row in external:
        assert row["holder"] != row["peer"]
        assert made[row["id"]] | {"holder": row["holder"]} == row


def test_every_completion_leads_back_to_the_rows_it_saw_and_to_its_task(store: RunStore) -> None:
    answers = {row["id"]: row for row in store.table("answer").to_pylist()}
    tasks = {row["id"] for row in store.table("tasks").to_pylist()}
    final = store.table("final").to_pylist()
    for row in final:
        parents = [answers[parent] for parent in row["parent_ids"]]
        assert {parent["peer"] for parent in parents} == {"peer0000", "peer0001"}
        assert {parent["task_id"] for parent in parents} == {row["task_id"]} <= tasks
        assert {parent["round"] for parent in parents} == {row["round"]}
        assert row["policy_version"] == row["round"]
        assert (row["stage"], row["node"]) == (1, "final")
    assert len({row["id"] for row in final}) == len(final)


def test_every_step_is_recorded_with_what_it_did(store: RunStore) -> None:
    steps = store.steps().to_pylist()
    assert len(steps) == 3 * 2 * 11
    updates = [step for step in steps if step["node"] == "update"]
    assert [json.loads(step["facts"])["versions"]["update"] for step in updates] == [1, 1, 2, 2, 3, 3]
    trained = store.table("update/trained", range(2, 3)).to_pylist()
    known = {row["id"] for group in ("answer", "final") for row in store.table(group, range(2, 3)).to_pylist()}
    assert {row["rollout_id"] for row in trained} <= known
    (gather, _) = (json.loads(step["facts"]) for step in steps if step["node"] == "answers" and step["round"] == 0)
    assert gather["taken"] == ["peer0000", "peer0001"]


def test_the_curve_of_a_reward_is_one_array(run: Run, store: RunStore) -> None:
    root: Any = zarr.open(str(run.rollouts))
    rewards = root["score_answer/reward"][:]
    assert rewards.tolist() == store.table("score_answer").column("reward").to_pylist()
    even, short = (store.table("score_answer").column(name).to_pylist() for name in ("reward_even", "reward_short"))
    assert rewards.tolist() == [a + b for a, b in zip(even, short, strict=True)]


def test_all_peers_start_alike_and_the_last_checkpoint_is_what_they_became(run: Run) -> None:
    assert run.before[("peer0000", "policy")] == run.before[("peer0001", "policy")]
    for peer in ("peer0000", "peer0001"):
        policy = ToyPolicy("", 0)
        policy.load(run.folder / "checkpoints" / "000003" / peer / "policy")
        assert policy.version == 3
        assert policy.digest() == run.after[(peer, "policy")] != run.before[(peer, "policy")]


def test_the_graph_that_ran_is_in_the_folder_with_its_options(store: RunStore) -> None:
    stored = read_document(parse_document(store.graph_yaml, file="graph.yaml")).graph
    assert stored.run == RunConfig(rounds=3, peers=2)
    assert list(stored.nodes) == list(toy_game().nodes)
    assert store.versions["genrl-graph"]


def test_checkpoints_come_as_often_as_asked(tmp_path: Path) -> None:
    graph = toy_game()
    graph.run = RunConfig(rounds=5, checkpoint_every=2, keep=None)
    run = play(graph, out=tmp_path / "run", quiet=True)
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["000002", "000004", "000005"]


def failing(how: str = "raise", *, peer: str = "peer0001") -> Graph:
    graph = toy_game()
    broken = graph.add("broken", Broken(round=1, peer=peer, how=how), rollouts=graph.output("final"))
    graph.add("credit_broken", Centred(), scored=broken)
    return graph


def test_a_node_that_fails_stops_the_run_and_leaves_what_was_committed(tmp_path: Path) -> None:
    place = r"\(toys.py:\d+ in run\)"
    with pytest.raises(
        RewardFailed, match=rf"^nodes.broken \(round 1, peer0001\): ValueError: no idea what this is {place}$"
    ):
        play(failing(), out=tmp_path / "run", rounds=3, peers=2, quiet=True)
    store = RunStore.open(tmp_path / "run")
    steps = store.steps().to_pylist()
    assert [step["node"] for step in steps if step["round"] == 0].count("broken") == 2
    second = [step["node"] for step in steps if step["round"] == 1]
    assert second.count("final") == 2
    assert "broken" not in second
    assert set(store.table("final").column("round").to_pylist()) == {0, 1}
    assert RunStore.open(tmp_path / "run", "a").table("final").equals(store.table("final"))


def test_a_node_that_gives_another_type_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match=r"nodes.broken \(round 1, peer0000\): gave Rollouts where its `run` declares"):
        play(failing("type", peer="peer0000"), out=tmp_path / "run", rounds=3, quiet=True)
    assert RunStore.open(tmp_path / "run").steps().num_rows


def test_too_few_peers_are_told_before_a_folder_is_made(tmp_path: Path) -> None:
    graph = read_document(parse_document(toy_game().dump().replace("min_peers: 1", "min_peers: 3"), file="g")).graph
    with pytest.raises(
        ExchangeTimeout, match=r"nodes.answers .*wants 3 peers, but 2 play here and no other can come; set"
    ):
        play(graph, out=tmp_path / "run", rounds=1, peers=2, quiet=True)
    assert not (tmp_path / "run").exists()
    lenient = graph.dump().replace("min_peers: 3", "min_peers: 3, on_short: continue")
    play(read_document(parse_document(lenient, file="g")).graph, out=tmp_path / "run", rounds=1, quiet=True)


def test_several_outputs_are_groups_of_their_own(tmp_path: Path) -> None:
    graph = Graph("halves")
    policy, total = graph.carry("policy", ToyPolicyCarry()), graph.carry("total", TotalCarry(start=2))
    answer = graph.add("answer", Draw(), tasks=graph.add("tasks", Numbers()), policy=policy)
    halves = graph.add("halves", Split(), rows=answer)
    graph.add("credit", Centred(), scored=graph.add("score", Parity(), rollouts=halves.low))
    both = graph.add("both", StepBoth(), policy=policy, total=total, rows=halves.high)
    graph.next_round(policy=both.policy, total=both.total)
    run = play(graph, out=tmp_path / "run", rounds=2, quiet=True)
    store = RunStore.open(run.folder)
    assert {"halves/low", "halves/high"} <= set(store.groups())
    low, high = (store.table(f"halves/{name}").column("id").to_pylist() for name in ("low", "high"))
    assert sorted(low + high) == sorted(store.table("answer").column("id").to_pylist())
    assert store.table("halves/low").column_names == ["id", "round", "holder"]
    facts = [json.loads(step["facts"]) for step in store.steps().to_pylist() if step["node"] == "both"]
    assert [fact["versions"] for fact in facts] == [{"both.policy": 1}, {"both.policy": 2}]
    assert run.before.keys() == run.after.keys() == {("peer0000", "policy"), ("peer0000", "total")}
    assert all(run.before[key] != run.after[key] for key in run.before)


def test_a_game_without_carries_and_one_without_rounds_are_played(tmp_path: Path) -> None:
    graph = Graph("plain")
    graph.add("kept", Same(), rows=graph.add("tasks", Numbers()))
    run = play(graph, out=tmp_path / "plain", rounds=1, quiet=True)
    assert run.before == run.after == {}
    assert RunStore.open(run.folder).table("tasks").num_rows == 2
    assert (run.folder / "checkpoints" / "000001").is_dir()
    none = play(toy_game(), out=tmp_path / "none", rounds=0, quiet=True)
    assert none.before == none.after
    assert RunStore.open(none.folder).groups() == []


def test_a_frozen_carry_stays_what_it_was(tmp_path: Path) -> None:
    graph = Graph("frozen")
    policy, total = graph.carry("policy", ToyPolicyCarry()), graph.carry("total", TotalCarry())
    answer = graph.add("answer", Draw(), tasks=graph.add("tasks", Numbers()), policy=policy)
    graph.next_round(total=graph.add("add", Add(), total=total, rows=[answer, answer]))
    run = play(graph, out=tmp_path / "run", rounds=2, quiet=True)
    changed = {name: run.before[key] != run.after[key] for key in run.before for _, name in [key]}
    assert changed == {"policy": False, "total": True}


class Move(Frame):
    """A move, with an id, but without an author."""

    columns = {"id": Tasks.columns["id"], "text": Tasks.columns["id"]}


class Moves(Source, name="test_play_moves"):
    """Gives moves."""

    def run(self, *, round: int) -> Move:
        return Move.from_rows([{"id": f"moves/{round}", "text": "e4"}])

    def resolve(self, task_id: str) -> Task:
        return Task(task_id, [])


def test_rows_of_any_type_are_exchanged_and_stored(tmp_path: Path) -> None:
    graph = Graph("chess")
    everyone = graph.add("everyone", Gather(min_peers=2), rows=graph.add("moves", Moves()))
    graph.add("kept", Same(), rows=everyone)
    store = RunStore.open(play(graph, out=tmp_path / "run", rounds=2, peers=2, quiet=True).folder)
    assert store.table("moves").num_rows == 4
    assert store.table("everyone").num_rows == store.table("kept").num_rows == 8
    assert store.table("moves").column_names == ["id", "text", "round", "holder"]


def test_an_exchange_that_leaves_the_own_rows_out(tmp_path: Path) -> None:
    graph = toy_game()
    others = graph.add("others", Gather(min_peers=2, include_self=False), rows=graph.output("answer"))
    graph.add("seen", Same(), rows=others)
    store = RunStore.open(play(graph, out=tmp_path / "run", rounds=1, peers=2, quiet=True).folder)
    assert store.table("others").num_rows == store.table("seen").num_rows == 12
    assert store.table("answers").num_rows == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": -1}, "run.rounds: input should be greater than or equal to 0, got -1"),
        ({"peers": 0}, "run.peers: input should be greater than or equal to 1, got 0"),
        ({"threads": 0}, "run.threads: input should be greater than or equal to 1, got 0"),
        ({"seed": "x"}, "run.seed: input should be a valid integer"),
    ],
)
def test_wrong_options_are_told(options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamError, match=message):
        play(toy_game(), out=tmp_path / "run", quiet=True, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_taken_and_a_graph_that_is_wrong_are_told_first(tmp_path: Path, run: Run) -> None:
    with pytest.raises(StoreError, match="holds a run already"):
        play(toy_game(), out=run.folder, rounds=1, quiet=True)
    graph = toy_game()
    graph.add("unread", Parity(), rollouts=graph.output("answer"))
    with pytest.raises(GraphError, match=r"nodes.unread: this reward is read by nothing"):
        play(graph, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


class NotThere(Numbers, name="test_not_there"):
    """A source whose data is missing."""

    def prepare(self) -> None:
        raise DataError("data.jsonl: no such file")


def test_what_is_missing_outside_is_told_before_a_folder_is_made(tmp_path: Path) -> None:
    graph = Graph("g")
    graph.add("kept", Same(), rows=graph.add("tasks", NotThere()))
    with pytest.raises(DataError, match=r"data.jsonl: no such file"):
        play(graph, out=tmp_path / "run", rounds=1, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_folder_gets_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [play(toy_game(), rounds=1, quiet=True).folder for _ in range(2)]
    assert [str(folder) for folder in folders] == ["runs/toy-1", "runs/toy-2"]


def test_generic_rows_keep_their_subclass(tmp_path: Path) -> None:
    seen: list[str] = []

    class Watch(Select, name="test_watch"):
        def run(self, rows: R) -> R:
            seen.append(str(rows.edge_type))
            return rows

    graph = toy_game()
    graph.add("watch", Watch(), rows=graph.output("answers"))
    graph.add("watch_credit", Watch(), rows=graph.output("credit_final"))
    play(graph, out=tmp_path / "run", rounds=1, quiet=True)
    assert seen == ["PeerRollouts", "Credited"]
