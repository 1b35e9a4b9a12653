"""Admission: good rows are admitted, bad ones are refused with a reason, and no payload ends the game."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Centred, Draw, Moves, Numbers, Parity, Same, Step, ToyPolicy, ToyPolicyCarry, toy_game

from genrl_graph import Frame, Graph, Log, Rollouts, TaskBook, Tasks, score
from genrl_graph.contract.node import Exchange
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.graph_file.read import read
from genrl_graph.nodes.exchange.gather import Gather
from genrl_graph.runners.swarm.admission.rules import (
    LEAST_TASKS,
    Admission,
    makers,
    of_one_shape,
    roles_of_makers,
    rows_per_task,
)
from genrl_graph.runners.swarm.admission.verdict import MOST_REFUSALS, PAYLOAD, Admitted, refusal_columns
from genrl_graph.seeds import group_id, rollout_id
from genrl_graph.wire.packet import PacketLimits, encode

SCHEDULE = compile_graph(toy_game())
SENDER = "peer0001"
GAMES = Path(__file__).parents[4] / "graphs"


def own_tasks(round: int = 0) -> Tasks:
    made: Tasks = SCHEDULE.nodes["tasks"].run(  # type: ignore[attr-defined]
        rng=np.random.default_rng(0), round=round
    )
    return made


def offered(peer: str = SENDER, round: int = 0, *, node: str = "answer") -> Rollouts:
    """Return the offer of an honest peer of the toy game."""
    rng = np.random.default_rng(round)
    made: Rollouts = SCHEDULE.nodes[node].run(  # type: ignore[attr-defined]
        own_tasks(round), ToyPolicy("policy", 3), rng=rng, log=Log(), round=round, peer=peer
    )
    return made


OFFER = offered()
LIKE = offered("peer0000")


def desk(*, max_staleness: int = 0, **params: Any) -> Admission:
    node = SCHEDULE.nodes["answers"].model_copy(update=params)
    assert isinstance(node, Exchange)
    return Admission(node, makers(SCHEDULE, "answers"), max_staleness=max_staleness)


def book() -> TaskBook:
    return TaskBook({"tasks": SCHEDULE.nodes["tasks"]})  # type: ignore[dict-item]


def judge(rows: Frame, at: Admission | None = None, **context: Any) -> Admitted:
    """Encode rows as a payload and return what an admission takes of it."""
    given: dict[str, Any] = {"like": LIKE, "sender": SENDER, "announced": 0, "round": 0, "tasks": book()} | context
    return (at or desk()).receive(encode(rows), **given)


def changed(rows: Rollouts, at: int, **values: Any) -> Rollouts:
    """Return the rows with other values in row `at`."""
    changed = [row | values if place == at else row for place, row in enumerate(rows.rows())]
    return Rollouts.from_rows(changed)


def rehashed(rows: Rollouts, at: int, *, protocol: str = SCHEDULE.protocol, **values: Any) -> Rollouts:
    """Return the rows with other values in row `at`, and the ids that those values hash to."""
    row = changed(rows, at, **values).rows()[at]
    where = {name: row[name] for name in ("peer", "round", "node", "task_id")} | {"protocol": protocol}
    prompt, completion = (np.asarray(row[name], np.int32) for name in ("prompt_ids", "completion_ids"))
    made = {name: row[name] for name in ("parent_ids", "sample")} | {"completion_ids": completion}
    ids = {"id": rollout_id(**where, **made, prompt_ids=prompt), "group_id": group_id(**where, prompt_ids=prompt)}
    return changed(rows, at, **(ids | values))


def rules(admitted: Admitted) -> list[tuple[int, str]]:
    return [(refusal.row, refusal.rule) for refusal in admitted.refusals]


class SlowSource:
    """A source whose tasks take long to build."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.built = seconds, list[str]()

    def resolve(self, task_id: str) -> Task:
        time.sleep(self.seconds)
        self.built.append(task_id)
        return Task(task_id, [], "1")


def many(rows: int, tasks: int) -> Rollouts:
    """Return honestly made rows of many samples and tasks."""
    (row,) = OFFER.take([0]).rows()
    changes: list[dict[str, Any]] = [{"task_id": f"tasks/{at % tasks}", "sample": at} for at in range(rows)]
    return Rollouts.concat([rehashed(Rollouts.from_rows([row]), 0, **change) for change in changes])


def test_time_for_building_tasks_ends_and_the_tasks_of_the_own_offer_come_first() -> None:
    source = SlowSource(0.05)
    rows = Rollouts.concat([many(40, 40), OFFER.take([0])])
    admitted = judge(rows, desk(peer_seconds=0.5), tasks=TaskBook({"tasks": source}))
    assert source.built[0] == OFFER.values("task_id")[0] and 1 < len(source.built) <= 11
    assert {refusal.rule for refusal in admitted.refusals} == {"seconds"}
    assert admitted.out_of_time and admitted.misbehaved
    assert not judge(OFFER, desk(peer_seconds=0.5)).misbehaved


@pytest.mark.parametrize(("params", "most"), [({}, 16), ({"max_rows_per_task": 5}, 5)])
def test_rows_of_a_task_have_a_limit(params: dict[str, int], most: int) -> None:
    rows = many(60, 2)
    admitted = judge(rows, desk(**params))
    assert len(admitted.rows) == 2 * most
    assert rules(admitted)[0] == (2 * most, "rows_per_task")
    own = Rollouts.from_rows([row | {"peer": "peer0000"} for row in many(2 * 8, 2).rows()])
    if not params:
        assert not judge(rows, like=own).refusals, "30 of a task, and own offers have 8"


def test_a_peer_that_makes_no_rows_of_an_exchange_takes_as_many_as_the_graph_lets_others_make() -> None:
    shared = compile_graph(read(GAMES / "code_game/code_game.yaml").graph)
    for role in ("solver", "proposer"):
        part = shared.played_by([role])
        assert {name: rows_per_task(part, name) for name in ("proposals", "solutions")} == {
            "proposals": 8,
            "solutions": 4,
        }
        assert roles_of_makers(part, "proposals") == ["proposer"] and roles_of_makers(part, "solutions") == ["solver"]
    node = SCHEDULE.nodes["answers"]
    assert isinstance(node, Exchange)
    taught = Admission(node, makers(SCHEDULE, "answers"), rows_per_task=8)
    assert not judge(many(60, 2), taught, like=OFFER.take([])).refusals, "30 of a task, and 8 are usual"


def test_prompts_for_each_row_multiply_the_rows_of_a_task() -> None:
    branching = compile_graph(read(GAMES / "credited_critique.yaml").graph)
    assert [rows_per_task(branching, name) for name in ("answers", "critiques", "finals")] == [16, 32, 2 * 32]
    assert roles_of_makers(branching, "finals") == []


def test_a_sender_whose_name_others_claim_is_shown_under_another_one() -> None:
    admitted = judge(changed(OFFER, 0, task_id="elsewhere/3"), shown="peer0001@abcdefgh")
    assert set(admitted.rows.values("peer")) == {"peer0001@abcdefgh"} == {admitted.refusals[0].peer}
    assert not set(admitted.rows.values("group_id")) & set(OFFER.values("group_id"))
    assert admitted.rows.values("id") == OFFER.values("id")[1:]


def test_what_an_honest_peer_offers_is_admitted_as_it_is() -> None:
    admitted = judge(OFFER)
    assert admitted.rows == OFFER
    assert (admitted.refusals, admitted.offered, admitted.refused) == ((), len(OFFER), 0)
    assert not admitted.misbehaved and refusal_columns(admitted.refusals) == {}


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "someone else's name": ("peer", {"peer": "peer0002"}),
    "another round": ("round", {"round": 3}),
    "a node that is not exchanged": ("node", {"node": "final", "stage": 1}),
    "a node that does not exist": ("node", {"node": "x" * 5000}),
    "another stage": ("stage", {"stage": 1}),
    "a long id": ("name", {"id": "x" * 300}),
    "a task of no source": ("task", {"task_id": "elsewhere/3"}),
    "a task that the source cannot make": ("task", {"task_id": "tasks/three"}),
    "a long task": ("name", {"task_id": "tasks/" + "1" * 2000}),
    "fewer log-probs than tokens": ("lengths", {"logprobs": []}),
    "more mask than tokens": ("lengths", {"completion_mask": [1] * 9}),
    "a mask of 2": ("mask", {"completion_ids": [1], "completion_mask": [2], "logprobs": [-1.0]}),
    "a NaN": ("finite", {"temperature": float("nan")}),
    "an infinite log-prob": (
        "finite",
        {"completion_ids": [1], "completion_mask": [1], "logprobs": [-float("inf")]},
    ),
    "a log-prob above 0": ("logprobs", {"completion_ids": [1], "completion_mask": [1], "logprobs": [3.0]}),
    "a negative token": ("tokens", {"prompt_ids": [-1]}),
    "a negative sample": ("negative", {"sample": -1}),
    "a negative version": ("negative", {"policy_version": -1}),
    "an unknown finish": ("finish_reason", {"finish_reason": "won"}),
    "very many parents": ("parents", {"parent_ids": [""] * 5000}),
    "a long parent": ("name", {"parent_ids": ["p" * 300]}),
    "a huge row": ("row_bytes", {"completion": "x" * 2**21}),
    "a huge list": ("row_list", {"completion_mask": [1] * 2**19}),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_row_is_refused_and_the_others_stay(what: str) -> None:
    rule, values = BAD[what]
    admitted = judge(rehashed(OFFER, 2, **values))
    assert rules(admitted) == [(2, rule)]
    assert admitted.rows == OFFER.take([0, 1, 3, 4, 5])
    [refusal] = admitted.refusals
    assert refusal.peer == SENDER and len(refusal.id) < 300
    assert len(refusal.value) < 250 and refusal.value.isprintable()
    assert not admitted.misbehaved


@pytest.mark.parametrize(
    "values",
    [
        {"id": "0" * 32},
        {"group_id": OFFER.values("group_id")[0]},  # would put it into the baseline of other rows
        {"completion_ids": [1, 2], "completion_mask": [1, 1], "logprobs": [-1.0, -1.0]},
        {"prompt_ids": [5]},
        {"parent_ids": ["x"]},
        {"sample": 7},
        {"task_id": "tasks/17"},
    ],
)
def test_ids_must_hash_to_what_they_name(values: dict[str, Any]) -> None:
    assert rules(judge(changed(OFFER, 5, **values))) == [(5, "hash")]


def test_ids_of_another_protocol_are_forged() -> None:
    assert rules(judge(rehashed(OFFER, 0, protocol="of another graph"))) == [(0, "hash")]


def test_ids_are_new_in_their_packet_and_in_what_came_before() -> None:
    at = desk(max_staleness=2)
    assert rules(judge(OFFER.take([0, 1, 0]), at)) == [(2, "repeated")]
    assert judge(OFFER.take([0, 1]), at).refused == 0  # the packet of this round may come again
    replay = judge(OFFER, at, round=1)  # late, but no rows of it came in time
    assert rules(replay) == [(0, "replayed"), (1, "replayed")]
    assert rules(judge(OFFER, at, round=2)) == [(row, "replayed") for row in range(6)]


def test_old_and_future_rounds_are_refused_as_a_whole() -> None:
    for announced, round in ((0, 3), (4, 3)):
        admitted = judge(OFFER, desk(max_staleness=2), announced=announced, round=round)
        assert rules(admitted) == [(PAYLOAD, "announced")]
        assert admitted.misbehaved and len(admitted.rows) == 0 and admitted.rows.edge_type == LIKE.edge_type
    assert rules(judge(OFFER, announced=1, round=1)) == [(row, "round") for row in range(6)]  # a replay, renamed


def test_what_is_remembered_of_ids_stays_bounded() -> None:
    at = desk()
    for round in range(40):
        assert judge(offered(round=round), at, announced=round, round=round).refused == 0
    assert len(at._seen) <= 9


def test_a_token_beyond_a_known_vocabulary_is_refused() -> None:
    most = max(max(ids) for ids in OFFER.values("completion_ids"))
    assert judge(OFFER, vocabularies={"toy": most + 1}).refused == 0
    assert judge(OFFER, vocabularies={"other": 1}).refused == 0
    assert {rule for _, rule in rules(judge(OFFER, vocabularies={"other": 1, "toy": most}))} == {"tokens"}


class Fragile:
    """A source that fails on every id: first with a `DataError`, then with a `RecursionError`."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def resolve(self, task_id: str) -> Task:
        self.asked.append(task_id)
        if len(self.asked) > 1:
            raise RecursionError("too deep\nby far")
        raise DataError("no such row")


def test_a_source_is_asked_once_for_each_task_and_may_fail_in_any_way() -> None:
    source = Fragile()
    admitted = judge(OFFER, tasks=TaskBook({"tasks": source}))
    assert len(source.asked) == len(set(source.asked)) == len(set(OFFER.values("task_id")))
    assert rules(admitted) == [(row, "task") for row in range(6)]
    shown = refusal_columns(admitted.refusals)["value"]
    assert "no such row" in shown[0] and "RecursionError: too deep" in shown[-1]
    assert admitted.misbehaved


def test_only_so_many_tasks_are_made_for_a_stranger() -> None:
    rows = own_tasks()
    [task] = rows.take([0]).rows()
    many = Tasks.from_rows([task | {"id": f"tasks/{key}"} for key in range(LEAST_TASKS + 9)])
    source = Fragile()
    admitted = judge(many, like=rows, tasks=TaskBook({"tasks": source}))
    assert len(source.asked) == LEAST_TASKS
    assert admitted.refused == len(many)


def test_the_limits_are_params_of_the_exchange() -> None:
    assert Gather(min_peers=1).limits == PacketLimits()
    assert Gather(min_peers=1, max_row_kb=4, max_payload_mb=2).limits == PacketLimits(4096, 2**12, 2**21, 2**23, 2**10)


def test_random_mutations_of_payloads_admit_nothing_invalid() -> None:
    script = Path(__file__).resolve().parents[3] / "fuzz" / "fuzz_admission.py"
    command = [sys.executable, str(script), "--plain", "--runs", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "no failure" in done.stdout, done.stderr[-2000:]


def test_a_payload_that_cannot_be_read_is_one_refusal() -> None:
    admitted = desk().receive(b"what?", like=LIKE, sender=SENDER, announced=0, round=0, tasks=book())
    assert refusal_columns(admitted.refusals) == {
        "peer": [SENDER],
        "row": [PAYLOAD],
        "id": [""],
        "rule": ["head"],
        "value": ["5 bytes, of 27 at least"],
    }
    assert admitted.misbehaved and len(admitted.rows) == 0
    assert rules(judge(OFFER, desk(max_rows=5))) == [(PAYLOAD, "rows")]
    assert rules(judge(OFFER, desk(max_payload_mb=1), like=Tasks.empty())) == [(PAYLOAD, "type")]


def test_very_many_refusals_are_counted_and_the_first_are_told() -> None:
    rows = Rollouts.concat([OFFER] * 100)
    admitted = judge(rows)
    assert (admitted.offered, admitted.refused) == (600, 594)
    assert [refusal.row for refusal in admitted.refusals] == list(range(6, 6 + MOST_REFUSALS))


def test_a_peer_cannot_take_columns_away_or_add_some() -> None:
    own = score(LIKE, {"right": np.zeros(6), "neat": np.ones(6)})
    theirs = score(OFFER, {"right": np.full(6, np.nan), "other": np.ones(6)})
    admitted = judge(theirs, like=own)
    assert admitted.refused == 0  # what could not be judged is NaN, and nothing is wrong with that
    assert admitted.rows.table.column_names == own.table.column_names
    assert np.isnan(admitted.rows.numpy("reward_neat")).all()
    assert SCORED in admitted.rows.marks
    assert isinstance(admitted.rows, Rollouts)
    assert "reward_neat" in Rollouts.concat([own, admitted.rows]).table.column_names


def moves(shape: tuple[int, int], rows: int = 2) -> Moves:
    columns = {"id": list(map(str, range(rows))), "value": [0] * rows, "path": [[1]] * rows}
    return Moves.from_columns(columns | {"board": np.zeros((rows, *shape), np.float32)})


def test_rows_without_an_author_or_a_task_are_taken_and_have_one_shape() -> None:
    at, like = desk(), Moves.empty()
    sent = {"anna": (3, 2), "ben": (2, 2), "cleo": (2, 2), "dora": (5, 5)}
    got = {name: judge(moves(shape), at, like=like, sender=name) for name, shape in sent.items()}
    assert [len(admitted.rows) for admitted in got.values()] == [2] * 4
    kept = of_one_shape(got)
    assert {name: len(admitted.rows) for name, admitted in kept.items()} == {"anna": 0, "ben": 2, "cleo": 2, "dora": 0}
    assert rules(kept["anna"]) == [(PAYLOAD, "shape")]
    rows = [admitted.rows for admitted in kept.values() if isinstance(admitted.rows, Moves)]
    assert len(rows) == 4 and len(Moves.concat([like, *rows])) == 4
    assert of_one_shape({"ben": got["ben"]}) == {"ben": got["ben"]}


def test_a_forged_answer_key_is_refused() -> None:
    own = own_tasks()
    rows = own.rows()
    forged = Tasks.from_rows([rows[0] | {"answer": "5"}, rows[1] | {"messages": []}, rows[2]])
    admitted = judge(forged, like=own)
    assert rules(admitted) == [(0, "task"), (1, "task")]
    assert admitted.rows == own.take([2])
    assert judge(own, like=own).rows == own  # all peers may offer the same tasks


def test_the_makers_are_the_generators_whose_rows_come_through() -> None:
    g = Graph("chain")
    policy = g.carry("policy", ToyPolicyCarry(bias=1))
    tasks = g.add("tasks", Numbers())
    first = g.add("first", Draw(), tasks=tasks, policy=policy)
    seen = g.add("seen", Gather(min_peers=1), rows=first)
    second = g.add("second", Draw(), tasks=tasks, policy=policy, seen=seen)
    same = g.add("same", Same(), rows=second)
    scored = g.add("scored", Parity(), rollouts=same)
    both = g.add("both", Gather(min_peers=1), rows=scored)
    asked = g.add("asked", Gather(min_peers=1), rows=tasks)
    third = g.add("third", Draw(), tasks=asked, policy=policy, seen=both)
    credited = g.add("credit", Centred(), scored=g.add("score", Parity(), rollouts=third))
    g.next_round(policy=g.add("update", Step(), policy=policy, credited=[credited]))
    schedule = compile_graph(g)
    assert makers(schedule, "seen") == {"first": 0}
    assert makers(schedule, "both") == {"second": 1}
    assert makers(schedule, "asked") == {"tasks": 0}


TEXTS = (
    st.sampled_from(["", "x", "peer0000", SENDER, "answer", "final", "tasks/1", "tasks/x", "stop", "ø" * 300])
    | st.text()
)
VALUES: dict[Any, Any] = {
    pa.string(): TEXTS,
    pa.int32(): st.integers(-3, 3) | st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32),
    pa.list_(pa.string()): st.lists(TEXTS, max_size=3),
    pa.list_(pa.int32()): st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    pa.list_(pa.int8()): st.lists(st.integers(-128, 127), max_size=4),
    pa.list_(pa.float32()): st.lists(st.floats(width=32), max_size=4),
}
CHANGES = st.sampled_from([name for name, dtype in Rollouts.columns.items() if dtype in VALUES]).flatmap(
    lambda name: st.tuples(st.just(name), VALUES[Rollouts.columns[name]])
)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.lists(CHANGES, max_size=3)), max_size=3), st.booleans())
def test_whatever_is_changed_only_rows_that_hold_come_in(edits: list[tuple[int, list[Any]]], rehash: bool) -> None:
    rows = OFFER
    for at, changes in edits:
        rows = (rehashed if rehash else changed)(rows, at, **dict(changes))
    admitted = judge(rows)
    assert len(admitted.rows) + admitted.refused == len(rows)
    assert {refusal.row for refusal in admitted.refusals}.isdisjoint(admitted_places(rows, admitted))
    for row in admitted.rows.rows():
        assert (row["peer"], row["round"], row["node"], row["stage"]) == (SENDER, 0, "answer", 0)
        assert len(row["completion_ids"]) == len(row["completion_mask"]) == len(row["logprobs"])
        assert np.isfinite([row["temperature"], *row["logprobs"]]).all()
        assert min([0, *row["completion_ids"], *row["prompt_ids"]]) == 0
        assert row["finish_reason"] in ("stop", "length", "failed")
        again = rehashed(Rollouts.from_rows([row]), 0).rows()[0]
        assert (again["id"], again["group_id"]) == (row["id"], row["group_id"])
        assert book()[row["task_id"]].answer


def admitted_places(rows: Rollouts, admitted: Admitted) -> Iterator[int]:
    refused = {refusal.row for refusal in admitted.refusals}
    kept = [at for at in range(len(rows)) if at not in refused]
    assert admitted.rows == rows.take(kept)
    yield from kept


def test_columns_that_stay_at_home_neither_travel_nor_count_among_those_of_the_receiver() -> None:
    own = OFFER.with_local(OFFER.local_columns)
    assert encode(own) == encode(OFFER)
    admitted = judge(OFFER, like=LIKE.with_local(LIKE.local_columns))
    assert admitted.rows == judge(OFFER).rows
    assert len(admitted.rows) == len(OFFER)
