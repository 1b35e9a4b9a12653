"""Rounds: steps in lockstep over the peers, one commit per step, and errors that name their place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from toys import (
    Add,
    BrokenDraw,
    Centred,
    Draw,
    Halves,
    Numbers,
    Parity,
    Same,
    Step,
    Tell,
    Total,
    TotalCarry,
    ToyFork,
    ToyPolicyCarry,
    toy_game,
)

from genrl_graph import Graph, Log, R, Reward, Rollouts, Scored, Select, play, score
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.errors import DataError, NodeFailed, RewardFailed, StoreError
from genrl_graph.nodes.advantage.pool import PoolAdvantage
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.runners.loop import round as rounds
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.exchange import LocalSwarm
from genrl_graph.runners.loop.peers import make_peers
from genrl_graph.runners.loop.round import run_round
from genrl_graph.runners.loop.without_offenders import LEFT_OUT
from genrl_graph.store.journal import Record


class Played:
    """Rounds of some peers, with the records and reports that they produce."""

    def __init__(self, graph: Graph, *, peers: int = 1, seed: int = 0) -> None:
        self.commits: list[list[Record]] = []
        self.done: list[StepReport] = []
        schedule = compile_graph(graph)
        names = [f"peer{at:04d}" for at in range(peers)]
        self.players = make_peers(schedule, names, seed=seed)
        swarm = LocalSwarm(names)
        self.context = RunContext(
            schedule=schedule, swarm=swarm, seed=seed, commit=self._commit, watch=self.done.append
        )

    def play(self, round: int) -> None:
        run_round(self.context, self.players, round)

    def _commit(self, records: Sequence[Record]) -> None:
        self.commits.append(list(records))

    def values(self, node: str, group: str, column: str) -> list[object]:
        records = [record for commit in self.commits for record in commit if record.node == node]
        return [value for record in records for value in record.tables[group].column(column).to_pylist()]


def small(**nodes: Select) -> Graph:
    graph = Graph("small")
    rows = graph.add(
        "answer", Draw(), tasks=graph.add("tasks", Numbers()), policy=graph.carry("policy", ToyPolicyCarry())
    )
    for name, node in nodes.items():
        rows = graph.add(name, node, rows=rows)
    return graph


def test_a_step_of_all_peers_is_one_commit() -> None:
    played = Played(toy_game(), peers=2)
    played.play(0)
    assert [[(record.node, record.holder) for record in commit] for commit in played.commits] == [
        [(name, "peer0000"), (name, "peer0001")]
        for name in (
            "tasks",
            "answer",
            "answers",
            "final",
            "score_answer",
            "credit_answer",
            "score_final",
            "match_final",
            "best",
            "credit_final",
            "update",
        )
    ]
    assert {record.round for commit in played.commits for record in commit} == {0}
    assert [str(done.step) for done in played.done[::2]][:5] == [
        "tasks",
        "answer",
        "open answers",
        "close answers",
        "final",
    ]


def test_what_steps_leave_free_goes_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[tuple[int, bool]] = []
    played = Played(toy_game(), peers=2)
    monkeypatch.setattr(rounds, "release_memory", lambda *, seldom: released.append((len(played.done), seldom)))
    played.play(0)
    assert released == [(done, True) for done in range(2, len(played.done) + 1, 2)]


def test_a_record_holds_what_its_step_added() -> None:
    played = Played(toy_game(), peers=2)
    played.play(0)
    tables = {record.node: record for commit in played.commits for record in commit if record.holder == "peer0001"}
    columns = {group: table.column_names for record in tables.values() for group, table in record.tables.items()}
    assert columns["score_answer"] == ["id", "reward", "reward_even", "reward_short"]
    assert columns["match_final"] == ["id", "reward", "reward_match"]
    assert columns["best"] == ["id"]
    assert columns["best/kept"] == ["place"]
    assert columns["credit_final"] == ["id", "advantage"]
    assert columns["update/trained"] == ["rollout_id"]
    assert "update" not in columns
    assert len(columns["answer"]) == len(columns["answers"]) == 21
    assert set(tables["answers"].tables["answers"].column("peer").to_pylist()) == {"peer0000"}
    assert tables["answers"].facts["peers"] == {"peer0000": 6, "peer0001": 6}
    assert tables["update"].facts["versions"] == {"update": 1}
    assert list(tables["update"].facts["digests"]) == ["update"]
    assert tables["best"].facts["kept"] == tables["best"].tables["best/kept"].column("place").to_pylist()


def test_the_steps_report_time_and_metrics() -> None:
    played = Played(toy_game())
    played.play(0)
    metrics = {str(done.step): done.metrics for done in played.done}
    assert metrics["answer"]["rows"] == 6.0
    assert metrics["answer"]["tokens"] >= 6.0
    assert metrics["open answers"] == {"rows": 6.0}
    assert metrics["close answers"]["peers"] == 1.0
    assert {"reward", "reward_even", "reward_short", "rows", "unjudged"} == set(metrics["score_answer"])
    assert metrics["update"]["version"] == 1.0
    assert all(done.seconds >= 0 for done in played.done)


def test_carries_go_from_round_to_round() -> None:
    played = Played(toy_game(), peers=2)
    before = [player.carries["policy"].digest() for player in played.players]
    assert before[0] == before[1]
    for number in range(3):
        played.play(number)
    assert [player.carries["policy"].version for player in played.players] == [3, 3]  # type: ignore[attr-defined]
    assert {player.carries["policy"].digest() for player in played.players}.isdisjoint(before)
    assert all(not player.values for player in played.players)


def test_a_shared_source_gives_all_peers_the_same_tasks_and_rounds_others() -> None:
    def tasks(*, shared: bool) -> list[list[object]]:
        graph = Graph("g")
        graph.add("kept", Same(), rows=graph.add("tasks", Numbers(num_tasks=4, shared=shared)))
        played = Played(graph, peers=2)
        played.play(0)
        played.play(1)
        drawn = played.values("tasks", "tasks", "answer")
        return [drawn[at : at + 4] for at in range(0, 16, 4)]

    first, second, third, fourth = tasks(shared=True)
    assert first == second != third == fourth
    own = tasks(shared=False)
    assert len({tuple(part) for part in own}) == 4


def test_every_node_round_and_peer_has_randomness_of_its_own() -> None:
    graph = Graph("g")
    policy, tasks = graph.carry("policy", ToyPolicyCarry(bias=0)), graph.add("tasks", Numbers(num_tasks=1))
    for name in ("a", "b"):
        graph.add(name, Draw(num_generations=1, high=10**9), tasks=tasks, policy=policy)
    drawn: list[tuple[int, ...]] = []
    for seed in (0, 1):
        played = Played(graph, peers=2, seed=seed)
        played.play(0)
        played.play(1)
        for name in ("a", "b"):
            drawn += [tuple(ids) for ids in played.values(name, name, "completion_ids")]  # type: ignore[arg-type]
    assert len(drawn) == len(set(drawn)) == 16


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("data", DataError, r"nodes.broken \(round 0, peer0000\): no such file"),
        ("none", NodeFailed, r"nodes.broken \(round 0, peer0000\): gave NoneType where its `run` declares Rollouts"),
        ("rows", NodeFailed, r"nodes.broken \(round 0, peer0000\): ArrowInvalid: Column 1 named b expected length 1"),
    ],
)
def test_a_failure_names_node_round_and_peer(how: str, kind: type[Exception], message: str) -> None:
    played = Played(small(broken=BrokenDraw(how=how)))
    with pytest.raises(kind, match=message) as caught:
        played.play(0)
    assert "\n" not in str(caught.value)
    assert [commit[0].node for commit in played.commits] == ["tasks", "answer"]


def test_facts_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"broken: round 0: facts must be plain JSON values"):
        play(small(broken=BrokenDraw(how="fact")), out=tmp_path / "run", rounds=1, quiet=True)


def test_rows_without_the_declared_marks_are_refused() -> None:
    class Forgets(Select, name="test_forgets"):
        def run(self, rows: R) -> R:
            return type(rows)(rows.table.select(list(rows.columns)))

    graph = small()
    judged = graph.add("score", Parity(), rollouts=graph.output("answer"))
    graph.add("forgets", Forgets(), rows=judged)
    with pytest.raises(NodeFailed, match=r"nodes.forgets .*: gave Rollouts where its `run` declares Scored"):
        Played(graph).play(0)


def test_a_tuple_without_its_fields_is_refused() -> None:
    class Lists(Select, name="test_lists"):
        def run(self, rows: R) -> Halves:
            return [rows, rows]  # type: ignore[return-value]

    with pytest.raises(NodeFailed, match=r"gave list without 'low', which its `run` declares"):
        Played(small(halves=Lists())).play(0)


def test_a_node_may_give_nothing() -> None:
    graph = small(same=Same())
    graph.add("told", Tell(), rows=graph.output("same"))
    played = Played(graph)
    played.play(0)
    assert played.commits[-1][0].facts == {"told": 4}
    assert played.commits[-1][0].tables == {}


def test_other_carried_values_are_recorded_by_digest() -> None:
    graph = small()
    total = graph.carry("total", TotalCarry(start=5))
    graph.next_round(total=graph.add("add", Add(), total=total, rows=[graph.output("answer")]))
    played = Played(graph)
    played.play(0)
    assert played.commits[-1][0].facts == {"digests": {"add": Total(9).digest()}}
    assert isinstance(played.players[0].carries["total"], Total)


class Strict(Reward, name="test_strict"):
    """A reward with one fault."""

    how: str

    def run(self, rollouts: R) -> Scored[R]:
        if self.how == "none":
            return score(rollouts, {"x": np.full(len(rollouts), np.nan)})
        if self.how == "few":
            return score(rollouts, {"x": [1.0]})
        raise KeyError("six")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("none", r"nodes.score \(round 0, peer0000\): judged 0 of 4 rows, the others are NaN; max_unjudged is 0.99"),
        ("few", r"nodes.score \(round 0, peer0000\): .*"),
        ("raise", r"nodes.score \(round 0, peer0000\): KeyError: 'six' \(test_round.py:\d+ in run\)"),
    ],
)
def test_a_reward_that_judges_nothing_or_too_little_or_raises_is_a_failed_reward(how: str, message: str) -> None:
    graph = small()
    graph.add("credit", Centred(), scored=graph.add("score", Strict(how=how), rollouts=graph.output("answer")))
    with pytest.raises(RewardFailed, match=message) as caught:
        Played(graph).play(0)
    assert caught.value.exit_code == 21


def test_a_source_that_gives_a_task_twice_is_told() -> None:
    graph = Graph("twice")
    graph.add("tasks", Numbers(high=1))
    with pytest.raises(NodeFailed, match=r"gave task 'tasks/0' twice in a round; give every task one id"):
        Played(graph).play(0)


def test_a_fork_that_is_carried_on_takes_the_name_of_its_carry() -> None:
    graph = Graph("forked")
    policy = graph.carry("policy", ToyPolicyCarry())
    graph.add("answer", Draw(), tasks=graph.add("tasks", Numbers()), policy=policy)
    graph.next_round(policy=graph.add("copy", ToyFork(), policy=policy))
    played = Played(graph)
    played.play(0)
    played.play(1)
    assert set(played.values("answer", "answer", "policy")) == {"policy"}


class Judge(Reward, name="test_judge"):
    """Scores rows beside an input that has a term of the same name."""

    def run(self, rollouts: R, others: Rollouts) -> Scored[R]:
        return score(rollouts, {"even": np.ones(len(rollouts)), "x": np.ones(len(rollouts))})


def test_a_term_is_stored_although_another_input_has_one_of_its_name() -> None:
    graph = small()
    policy, tasks = graph.output("policy"), graph.output("tasks")
    others = graph.add("others", Parity(), rollouts=graph.add("second", Draw(), tasks=tasks, policy=policy))
    judged = graph.add("judged", Judge(), rollouts=graph.output("answer"), others=others)
    graph.add("credit", Centred(), scored=judged)
    played = Played(graph)
    played.play(0)
    assert played.values("judged", "judged", "reward_even") == [1.0] * 4


def test_rows_pooled_from_several_inputs_are_stored_by_their_ids() -> None:
    graph = small()
    policy, tasks = graph.output("policy"), graph.output("tasks")
    second = graph.add("second", Draw(), tasks=tasks, policy=policy)
    scored = [
        graph.add(f"score_{name}", Parity(), rollouts=rows)
        for name, rows in (("a", graph.output("answer")), ("b", second))
    ]
    graph.add("pool", PoolAdvantage(), scored=scored)
    played = Played(graph)
    played.play(0)
    (record,) = (record for commit in played.commits for record in commit if record.node == "pool")
    assert record.tables["pool"].column_names == ["id", "advantage"]
    assert record.tables["pool"].num_rows == 8


class Picky(Reward, name="test_picky"):
    """A reward of a user that raises on rows of peer0001, but not at that peer."""

    def run(self, rollouts: R, *, peer: str, log: Log) -> Scored[R]:
        """Pay 1 for each row."""
        if peer != "peer0001" and "peer0001" in rollouts.values("peer"):
            raise ValueError("three\nlines")
        log.metric("seen", len(rollouts))
        return score(rollouts, {"x": np.ones(len(rollouts))})


def test_rows_of_another_peer_on_which_a_reward_raises_are_left_out_and_told() -> None:
    graph = Graph("picky")
    tasks, policy = graph.add("tasks", Numbers()), graph.carry("policy", ToyPolicyCarry())
    answer = graph.add("answer", Draw(), tasks=tasks, policy=policy)
    scored = graph.add("score", Picky(), rollouts=graph.add("shared", Gather(min_peers=3), rows=answer))
    graph.next_round(
        policy=graph.add("update", Step(), policy=policy, credited=graph.add("c", Centred(), scored=scored))
    )
    played = Played(graph, peers=3)
    played.play(0)
    records = {record.holder: record for commit in played.commits for record in commit if record.node == "score"}
    facts = [records[f"peer000{at}"].facts for at in range(3)]
    left_out = {"peer0001": "ValueError: three"}
    assert [fact.get(LEFT_OUT) for fact in facts] == [left_out, None, left_out]
    seen = [fact["metrics"]["seen"] for fact in facts]
    assert 3 * seen[0] == 2 * seen[1] == 3 * seen[2]
    reasons = records["peer0000"].tables["score/failures"].column("reason").to_pylist()
    assert reasons == ["ValueError: three"] * int(seen[1] / 3)
