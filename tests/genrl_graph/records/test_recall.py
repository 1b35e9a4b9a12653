"""Recalled steps: a step's outputs and metrics can be rebuilt from the store, whatever the node did."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import (
    Best,
    Centred,
    Draw,
    Matches,
    Moves,
    Named,
    Numbers,
    Parity,
    Same,
    Split,
    Step,
    Tell,
    ToyFork,
    ToyPolicyCarry,
    toy_game,
)

from genrl_graph import (
    Exchange,
    Frame,
    Graph,
    Log,
    Packet,
    Peer,
    R,
    Reward,
    Rollouts,
    Scored,
    Select,
    Source,
    Task,
    score,
)
from genrl_graph.dag.graph import Handle
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.errors import StoreError
from genrl_graph.nodes.advantage.pool import PoolAdvantage
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.nodes.reward.weighted_sum import WeightedSum
from genrl_graph.nodes.select.nonzero_advantage import NonzeroAdvantage
from genrl_graph.nodes.select.top import Top
from genrl_graph.records.inherit import IN_FULL
from genrl_graph.records.rebuild import same_rows
from genrl_graph.records.recall import Recall
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.exchange import LocalSwarm
from genrl_graph.runners.loop.peers import make_peers, peer_names
from genrl_graph.runners.loop.round import run_round
from genrl_graph.store.journal import Record
from genrl_graph.store.run_store import RunStore

ROUNDS = 2


class CommitAttempted(AssertionError):
    """Raised when a recalled round commits; it must not."""


def refuse(records: Sequence[Record]) -> None:
    raise CommitAttempted(records)


def played(graph: Graph, folder: Path, *, peers: int = 2) -> tuple[list[StepReport], list[StepReport], RunStore]:
    """Play rounds, then recall them from the store with new peers; return the steps of both, and the store."""
    schedule, names = compile_graph(graph), peer_names(peers)
    live: list[StepReport] = []
    again: list[StepReport] = []
    with RunStore.create(folder, "graph: g\n", {}) as store:
        peers_live, swarm = make_peers(schedule, names, seed=0), LocalSwarm(names)
        context = RunContext(schedule=schedule, swarm=swarm, seed=0, commit=store.commit, watch=live.append)
        for number in range(ROUNDS):
            run_round(context, peers_live, number)
    store = RunStore.open(folder)
    recall = Recall(store, last=ROUNDS - 1)
    fresh = make_peers(schedule, names, seed=0)
    swarm = LocalSwarm(names)
    context = RunContext(schedule=schedule, swarm=swarm, seed=0, commit=refuse, watch=again.append, recall=recall)
    for number in range(ROUNDS):
        run_round(context, fresh, number)
    return [done for done in live if done.step.action != "open"], again, store


def assert_alike(live: Sequence[StepReport], again: Sequence[StepReport]) -> None:
    assert [(done.round, str(done.step), done.peer) for done in live] == [
        (done.round, str(done.step), done.peer) for done in again
    ]
    for one, other in zip(live, again, strict=True):
        where = f"{one.step} of {one.peer}"
        assert other.recalled, where
        assert str(one.metrics) == str(other.metrics), where  # NaN is NaN
        assert one.outputs.keys() == other.outputs.keys(), where
        for ref, value in one.outputs.items():
            if isinstance(value, Frame):
                rebuilt = other.outputs[ref]
                assert type(rebuilt) is type(value) and rebuilt.marks == value.marks, where
                assert same_rows(value.table, rebuilt.table), where


def answers_through(graph: Graph, **nodes: Select | Reward) -> Handle:
    """Add a generator to a graph and pass its rows through a chain of nodes; return the last output."""
    policy = graph.carry("policy", ToyPolicyCarry())
    rows = graph.add("answer", Draw(num_generations=3), tasks=graph.add("tasks", Numbers(num_tasks=2)), policy=policy)
    for name, node in nodes.items():
        (socket,) = (socket.name for socket in node.signature.inputs)
        rows = graph.add(name, node, **{socket: rows})
    return rows


def test_the_steps_of_a_game_are_recalled_as_they_were(tmp_path: Path) -> None:
    live, again, _ = played(toy_game(), tmp_path / "run")
    assert_alike(live, again)
    assert len(again) == ROUNDS * 2 * 11


def test_several_outputs_and_inputs_by_name_and_in_lists(tmp_path: Path) -> None:
    graph = Graph("many")
    rows = answers_through(graph)
    halves = graph.add("halves", Split(), rows=graph.add("score", Parity(), rollouts=rows))
    together = graph.add("named", Named(), rows={"b": halves.high, "a": halves.low}, more=[halves.high, rows])
    low, high = (graph.add(f"{name}_match", Matches(), rollouts=halves.__getattr__(name)) for name in ("low", "high"))
    pooled = graph.add("pooled", PoolAdvantage(scope="batch"), scored=[high, low])
    graph.add("kept", NonzeroAdvantage(), rows=pooled)
    graph.add("top", Top(k=1, column="reward_match"), rows=pooled)
    graph.add("tell", Tell(), rows=together)
    live, again, store = played(graph, tmp_path / "run")
    assert_alike(live, again)
    assert store.table("halves/low").column_names == ["id", "round", "holder"]
    assert not [group for group in store.groups() if IN_FULL in group]


def test_terms_of_two_rewards_are_joined_again(tmp_path: Path) -> None:
    graph = Graph("terms")
    rows = answers_through(graph)
    scored = [graph.add("a", Parity(), rollouts=rows), graph.add("b", Matches(), rollouts=rows)]
    graph.add("credit", Centred(), scored=graph.add("sum", WeightedSum(others=0.5), scored=scored))
    live, again, store = played(graph, tmp_path / "run")
    assert_alike(live, again)
    assert store.table("sum").column_names == ["id", "reward", "round", "holder"]
    assert not [group for group in store.groups() if IN_FULL in group]


class Rewrite(Reward, name="recall_rewrite"):
    """A reward that changes a column, which rewards must not, and gives some rows NaN."""

    def run(self, rollouts: R) -> Scored[R]:
        table = rollouts.table
        at = table.column_names.index("completion")
        shouted = type(rollouts)(table.set_column(at, "completion", pa.array(["!"] * len(table))), marks=rollouts.marks)
        return score(shouted, {"x": [float("nan") if at % 2 else 0.5 for at in range(len(table))]})


class Twice(Select, name="recall_twice"):
    """A select that gives all rows in reverse order, then all rows again."""

    def run(self, rows: R) -> R:
        return rows.take([*range(len(rows) - 1, -1, -1), *range(len(rows))])


class Bare(Select, name="recall_bare"):
    """A select that drops rewards."""

    def run(self, rows: Scored[Rollouts]) -> Rollouts:
        return Rollouts(rows.table.select(list(Rollouts.columns)))


def test_a_node_that_breaks_its_word_is_stored_whole(tmp_path: Path) -> None:
    graph = Graph("rewrite")
    rows = answers_through(graph, rewrite=Rewrite(), bare=Bare(), twice=Twice(), again=Parity())
    graph.add("credit", Centred(), scored=rows)
    live, again, store = played(graph, tmp_path / "run")
    assert_alike(live, again)
    assert [group for group in store.groups() if IN_FULL in group] == [f"rewrite/{IN_FULL}"]


class Boards(Source, name="recall_boards"):
    """A source of tensors, text and ragged numbers; without rows in round 1."""

    def run(self, *, rng: np.random.Generator, round: int) -> Moves:
        rows = 0 if round == 1 else 3
        return Moves.from_columns(
            {
                "id": [f"{self.place.node}/{at}" for at in range(rows)],
                "value": rng.integers(9, size=rows),
                "path": [[at, at] for at in range(rows)],
                "board": np.ones((rows, 2, 2), np.float32) * rng.random(),
            }
        )

    def resolve(self, task_id: str) -> Task:
        return Task(task_id, [])


class Nameless(Frame):
    """Rows without ids."""

    columns = {"text": pa.string(), "peer": pa.string()}


class Notes(Source, name="recall_notes"):
    """A source of rows without ids."""

    shared: bool = False

    def run(self, *, round: int, peer: str) -> Nameless:
        return Nameless.from_rows([{"text": f"{peer} {at}", "peer": peer} for at in range(round + 2)])

    def resolve(self, task_id: str) -> Task:
        return Task(task_id, [])


def test_rows_of_any_type_with_and_without_ids(tmp_path: Path) -> None:
    graph = Graph("types")
    boards, notes = graph.add("boards", Boards()), graph.add("notes", Notes())
    graph.add("scored_board", Twice(), rows=graph.add("same_board", Same(), rows=boards))
    graph.add("same_notes", Twice(), rows=graph.add("all_notes", Gather(min_peers=2), rows=notes))
    live, again, store = played(graph, tmp_path / "run")
    for one, other in zip(live, again, strict=True):
        for ref, value in one.outputs.items():
            assert len(value) == len(other.outputs[ref])
            assert not len(value) or value == other.outputs[ref], ref  # a tensor of no rows has no shape
    assert store.table("all_notes").num_rows == sum(2 * (number + 2) for number in range(ROUNDS))


class Mixed(Exchange, name="recall_mixed"):
    """An exchange that samples the rows of all peers with replacement; `changed` also changes a column."""

    changed: bool = False

    def offer(self, rows: R) -> R:
        return rows.take(range(1, len(rows)))

    def admit(self, packets: list[Packet[R]], *, rng: np.random.Generator) -> Peer[R]:
        rows = type(packets[0].rows).concat([packet.rows for packet in packets])
        mixed = rows.take(rng.integers(len(rows), size=len(rows)))
        if self.changed:
            at = mixed.table.column_names.index("completion")
            mixed = type(mixed)(mixed.table.set_column(at, "completion", pa.array(["?"] * len(mixed))))
        return mixed.marked(PEER)


@pytest.mark.parametrize("peers", [1, 3])
@pytest.mark.parametrize(
    "node",
    [
        Gather(min_peers=1),
        Gather(min_peers=1, include_self=False),
        Gather(min_peers=1, max_peers=1),
        Mixed(min_peers=1),
        Mixed(min_peers=1, changed=True),
    ],
    ids=str,
)
def test_exchanges_keep_the_rows_of_others_and_places_of_the_own(node: Exchange, peers: int, tmp_path: Path) -> None:
    graph = Graph("met")
    rows = answers_through(graph)
    met = graph.add("met", node, rows=rows)
    scored = graph.add("met_scored", Gather(min_peers=1), rows=graph.add("score", Parity(), rollouts=rows))
    graph.add("seen", Best(), scored=scored)
    graph.add("same", Twice(), rows=met)
    live, again, store = played(graph, tmp_path / "run", peers=peers)
    assert_alike(live, again)
    whole = {group for group in store.groups() if IN_FULL in group}
    assert whole == ({f"met/{IN_FULL}"} if isinstance(node, Mixed) and node.changed else set())
    holders, authors = (store.table("met_scored").column(name).to_pylist() for name in ("holder", "peer"))
    assert all(holder != author for holder, author in zip(holders, authors, strict=True))


class Late(Exchange, name="recall_late"):
    """An exchange that dates the rows of all peers to the round before."""

    def offer(self, rows: R) -> R:
        return rows

    def admit(self, packets: list[Packet[R]], *, round: int) -> Peer[R]:
        rows = type(packets[0].rows).concat([packet.rows for packet in packets])
        at = rows.table.column_names.index("round")
        earlier = rows.table.set_column(at, "round", pa.array([round - 1] * len(rows), pa.int32()))
        return type(rows)(earlier, marks=rows.marks).marked(PEER)


def test_rows_of_an_earlier_round_keep_it(tmp_path: Path) -> None:
    graph = Graph("late")
    late = graph.add("late", Late(min_peers=1), rows=answers_through(graph))
    graph.add("credit", Centred(), scored=graph.add("score", Parity(), rollouts=late))
    live, again, _ = played(graph, tmp_path / "run")
    assert_alike(live, again)
    last = next(done for done in reversed(again) if done.step.node == "credit")
    rows = last.outputs["credit"]
    assert isinstance(rows, Frame) and set(rows.values("round")) == {ROUNDS - 2}


CHAIN = {"same": Same, "twice": Twice, "best": Best, "centred": Centred, "bare": Bare}


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(sorted(CHAIN)), max_size=5), peers=st.integers(1, 2))
def test_any_chain_of_nodes_is_recalled(names: list[str], peers: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    graph = Graph("chain")
    rows, scored, terms = answers_through(graph), False, [Parity, Matches]
    for at, name in enumerate(names):
        if name in ("best", "centred", "bare") and not scored:
            if not terms:
                continue
            rows = graph.add(f"score_{at}", terms.pop()(), rollouts=rows)
        node = CHAIN[name]()
        (socket,) = (socket.name for socket in node.signature.inputs)
        rows = graph.add(f"{name}_{at}", node, **{socket: rows})
        scored = name in ("best", "centred") or (scored and name != "bare")
    graph.add("end", Tell(), rows=rows)
    live, again, _ = played(graph, tmp_path_factory.mktemp("chain") / "run", peers=peers)
    assert_alike(live, again)


class SplitRows(NamedTuple):
    """The outputs of a select with two fields."""

    good: Rollouts
    bad: Rollouts


class SplitByReward(Select, name="recall_part"):
    """A select that splits rows by the sign of their reward, and reports metrics that are not finite."""

    def run(self, rows: Scored[Rollouts], *, log: Log) -> SplitRows:
        good = rows.numpy("reward") > 0
        log.metric("share", float("nan") if not len(good) else good.mean())
        log.metric("far", float("inf"))
        return SplitRows(rows.where(good), rows.where(~good))


def test_undeclared_marks_and_metrics_that_are_not_finite_come_back(tmp_path: Path) -> None:
    graph = Graph("more")
    rows = answers_through(graph, parity=Parity())
    parts = graph.add("part", SplitByReward(), rows=rows)
    graph.add("both", Named(), rows={"bad": parts.bad, "good": parts.good})
    live, again, _ = played(graph, tmp_path / "run")
    assert_alike(live, again)
    part = next(done for done in again if done.step.node == "part")
    assert str(part.outputs["part.good"].edge_type) == "Scored"
    assert part.metrics["far"] == float("inf")


def forked() -> Graph:
    graph = Graph("forked")
    policy = graph.carry("policy", ToyPolicyCarry())
    fork = graph.add("fork", ToyFork(), policy=policy)
    answer = graph.add("answer", Draw(), tasks=graph.add("tasks", Numbers()), policy=fork)
    credit = graph.add("credit", Centred(), scored=graph.add("score", Parity(), rollouts=answer))
    graph.next_round(policy=graph.add("update", Step(), policy=fork, credited=[credit]))
    return graph


def test_forks_and_updates_are_applied_again_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live, again, _ = played(forked(), tmp_path / "run", peers=1)
    assert_alike(live, again)
    assert live[-1].outputs["update"].digest() == again[-1].outputs["update"].digest()
    run, updated = Step.run, []

    def diverging(self: Step, *args: object, **named: object) -> object:
        updated.append(run(self, *args, **named))  # type: ignore[arg-type]
        if len(updated) > ROUNDS:
            updated[-1].bias += 1
        return updated[-1]

    monkeypatch.setattr(Step, "run", diverging)
    with pytest.raises(
        StoreError,
        match=r"^nodes.update \(round 0, peer0000\): update became \w+, but \w+ in the run; .*OMP_NUM_THREADS",
    ):
        played(forked(), tmp_path / "other", peers=1)


def test_recall_knows_what_was_committed_when_it_was_made(tmp_path: Path) -> None:
    _, _, store = played(toy_game(), tmp_path / "run", peers=1)
    recall = Recall(store, last=0)
    assert recall(0, "answer", "peer0000") is not None
    assert recall(0, "answer", "peer0001") is None
    assert recall(0, "eval/answer", "peer0000") is None
    assert recall(1, "answer", "peer0000") is None
