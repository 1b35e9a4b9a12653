"""Admission of steps of games: rows of an honest peer are admitted unchanged, forged ones refused with a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genrl_graph.graphs
from genrl_graph import TaskBook, load
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.nodes.advantage.returns import WholeTrajectories
from genrl_graph.records.stored_run import open_run
from genrl_graph.runners.play import play
from genrl_graph.runners.swarm.admission.rules import Admission, makers, of_one_shape
from genrl_graph.runners.swarm.admission.verdict import PAYLOAD, Admitted
from genrl_graph.wire.packet import encode

FILE = Path(genrl_graph.graphs.__file__).resolve().parent / "games" / "tic_tac_toe_swarm.yaml"
SMALL = ["nodes.tasks.params.num_episodes=4", "run.mode=train", "run.eval_every=0", "run.trackers=[]", "run.rounds=1"]
GAME = load(FILE, SMALL)
SCHEDULE = compile_graph(GAME)
SENDER = "peer0001"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def offers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trajectories]:
    """Return the trajectories that two honest peers play in one round."""
    run = open_run(play(GAME, out=tmp_path_factory.mktemp("steps") / "run", quiet=True, threads=1).folder)
    found = {name: run.frame("play", 0, holder=name) for name in ("peer0000", SENDER)}
    assert all(isinstance(rows, Trajectories) for rows in found.values())
    return found  # type: ignore[return-value]


def judged(rows: Trajectories, like: Trajectories) -> Admitted:
    """Encode rows as a payload and return what an honest peer admits of it."""
    node: Any = SCHEDULE.nodes["games"]
    book = TaskBook({"tasks": SCHEDULE.nodes["tasks"]})  # type: ignore[dict-item]
    desk = Admission(node, makers(SCHEDULE, "games"))
    return desk.receive(encode(rows), like=like, sender=SENDER, announced=0, round=0, tasks=book)


def changed(rows: Trajectories, change: Change, *, honest_ids: bool = True) -> Trajectories:
    """Return the rows with columns changed in place; `honest_ids` makes their ids hash to the new content."""
    columns: dict[str, Any] = {
        name: np.array(rows.numpy(name)) if name not in ("finish_reason", "error") else rows.values(name)
        for name in rows.table.column_names
    }
    change(columns)
    made = Trajectories.from_columns(columns, marks=[SCORED])
    if not honest_ids:
        return made
    ids = made.content_ids(protocol=SCHEDULE.protocol)
    return Trajectories.from_columns(columns | {"id": ids}, marks=[SCORED])


def test_what_an_honest_peer_played_is_admitted_as_it_is(offers: dict[str, Trajectories]) -> None:
    admitted = judged(offers[SENDER], offers["peer0000"])
    assert admitted.rows == offers[SENDER] and admitted.refusals == ()


def nan(columns: dict[str, Any]) -> None:
    columns["observation"][0, 0, 0, 0] = np.nan


def illegal(columns: dict[str, Any]) -> None:
    columns["action"][1] = np.flatnonzero(columns["mask"][1] == 0)[0]


def ended_early(columns: dict[str, Any]) -> None:
    columns["finish_reason"][0] = "terminated"


def never_ended(columns: dict[str, Any]) -> None:
    columns["finish_reason"] = ["" for _ in columns["finish_reason"]]


def promising(columns: dict[str, Any]) -> None:
    columns["bootstrap"][:] = 100.0


def rich(columns: dict[str, Any]) -> None:
    columns["reward"][0] = np.inf


def opened(columns: dict[str, Any]) -> None:
    columns["mask"][:] = 3


def elsewhere(columns: dict[str, Any]) -> None:
    columns["task_id"][:] = "tasks/-1"


def doubled(columns: dict[str, Any]) -> None:
    columns["step"][1] = 0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (nan, "finite"),
        (illegal, "legal"),
        (ended_early, "whole"),
        (never_ended, "whole"),
        (promising, "bootstrap"),
        (rich, "reward"),
        (opened, "mask"),
        (elsewhere, "task"),
        (doubled, "repeated"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_liar_is_told_by_rule_and_no_torn_episode_is_left(
    change: Change, rule: str, offers: dict[str, Trajectories]
) -> None:
    admitted = judged(changed(offers[SENDER], change), offers["peer0000"])
    assert rule in {refusal.rule for refusal in admitted.refusals}
    assert admitted.refused > 0
    whole = WholeTrajectories.of(admitted.rows)  # type: ignore[arg-type]
    assert whole.lengths.sum() == len(admitted.rows), "what came in can be trained on"


def test_other_actions_under_the_old_ids_are_refused(offers: dict[str, Trajectories]) -> None:
    def other(columns: dict[str, Any]) -> None:
        legal = np.flatnonzero(columns["mask"][0])
        columns["action"][0] = legal[legal != columns["action"][0]][0]

    admitted = judged(changed(offers[SENDER], other, honest_ids=False), offers["peer0000"])
    assert {refusal.rule for refusal in admitted.refusals} == {"hash"}


def test_boards_of_another_size_are_refused_as_a_whole(offers: dict[str, Trajectories]) -> None:
    def larger(columns: dict[str, Any]) -> None:
        columns["observation"] = np.zeros((len(columns["id"]), 4, 4, 2), np.float32)

    wrong = changed(offers[SENDER], larger)
    (refusal,) = judged(wrong, offers["peer0000"]).refusals
    assert refusal.row == PAYLOAD
    nothing = offers["peer0000"].take([])
    given = {"a": judged(offers[SENDER], nothing), "b": judged(offers[SENDER], nothing), "c": judged(wrong, nothing)}
    assert [len(admitted.rows) > 0 for admitted in of_one_shape(given).values()] == [True, True, False]
