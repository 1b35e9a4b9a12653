"""Trajectories: ids, the rules for steps from other peers, and the round trip to flat arrays."""

from typing import Any

import numpy as np
import pytest

from genrl_graph.arrow.flat import join, split
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.trajectories import VALUED, Trajectories, episode_id, step_id, trajectory_id
from genrl_graph.edge_types.violation import ReceiverContext
from genrl_graph.errors import ColumnError

COLUMNS: dict[str, Any] = {
    "task_id": ["tasks/0"] * 4,
    "group_id": [episode_id(protocol="p", peer="peer0000", round=2, node="play", task_id="tasks/0", sample=0)] * 4,
    "peer": ["peer0000"] * 4,
    "node": ["play"] * 4,
    "stage": [0] * 4,
    "round": [2] * 4,
    "sample": [0] * 4,
    "policy": ["policy"] * 4,
    "policy_version": [7] * 4,
    "seat": [0, 1, 0, 1],
    "step": [0, 0, 1, 1],
    "observation": np.arange(24, dtype=np.float32).reshape(4, 2, 3),
    "mask": np.asarray([[1, 1, 0]] * 4, np.int8),
    "action": [0, 1, 1, 0],
    "logprob": [-0.5] * 4,
    "value": [0.0] * 4,
    "bootstrap": [0.0] * 4,
    "finish_reason": ["", "", "terminated", "terminated"],
    "error": [""] * 4,
}


def steps(**changed: object) -> Trajectories:
    where = {"peer": "peer0000", "round": 2, "node": "play", "task_id": "tasks/0", "sample": 0}
    ids = []
    for seat, step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        actions = np.asarray([[0, 1], [1, 0]][seat], np.int32)
        ids.append(step_id(trajectory_id(protocol="p", actions=actions, where=where | {"seat": seat}), step))
    return Trajectories.from_columns({"id": ids, **COLUMNS, **changed})


def test_ids_are_those_of_the_content_in_any_order() -> None:
    rows = steps()
    assert rows.content_ids(protocol="p") == rows.values("id")
    other = rows.take([3, 0, 2, 1])
    assert other.content_ids(protocol="p") == other.values("id")
    assert len(set(rows.values("id"))) == 4
    for changed in ({"action": [1, 1, 1, 0]}, {"round": [3] * 4}, {"peer": ["peer0001"] * 4}, {"sample": [1] * 4}):
        assert steps(**changed).content_ids(protocol="p")[0] != rows.values("id")[0]
    assert rows.content_ids(protocol="q")[0] != rows.values("id")[0]
    assert rows.take([0, 1, 3]).content_ids(protocol="p")[0] != rows.values("id")[0]  # a step is missing


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({}, ""),
        ({"action": [2, 1, 1, 0]}, "legal"),
        ({"action": [9, 1, 1, 0]}, "legal"),
        ({"action": [-1, 1, 1, 0]}, "legal"),
        ({"finish_reason": ["over", "", "terminated", "terminated"]}, "finish_reason"),
        ({"logprob": [0.5, 0, 0, 0]}, "logprob"),
        ({"seat": [-1, 1, 0, 1]}, "seat"),
        ({"seat": [64, 1, 0, 1]}, "seat"),
        ({"mask": np.asarray([[1, 7, 0], *[[1, 1, 0]] * 3], np.int8)}, "mask"),
        ({"bootstrap": [0.5, 0, 0, 0]}, "bootstrap"),
        ({"value": [-1e30, 0, 0, 0]}, "value"),
        ({"step": [-1, 0, 1, 1]}, "step"),
        ({"group_id": ["another's", *COLUMNS["group_id"][1:]]}, "group"),
    ],
)
def test_what_is_wrong_with_a_row_of_others(changed: dict[str, object], rule: str) -> None:
    broken = {
        flaw.rule: np.flatnonzero(flaw.rows).tolist() for flaw in steps(**changed).violations(ReceiverContext("p", {}))
    }
    assert broken.get(rule, [0]) == [0], broken
    assert {name for name, rows in broken.items() if rows} - {"hash", "whole"} == ({rule} if rule else set())


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, []),
        ({"finish_reason": ["terminated", "", "terminated", "terminated"]}, [0, 2]),  # it ends and goes on
        ({"finish_reason": ["", "", "", "truncated"]}, [0, 2]),  # it never ends
        ({"step": [0, 0, 2, 1]}, [0, 2]),  # a step is missing
        ({"step": [0, 0, 0, 1]}, [0, 2]),  # one comes twice
        ({"step": [0, 1, 1, 2]}, [1, 3]),  # it begins in the middle
    ],
)
def test_a_trajectory_that_is_not_whole_or_lies_about_its_end_is_refused_whole(
    changed: dict[str, object], refused: list[int]
) -> None:
    violations = [flaw for flaw in steps(**changed).violations(ReceiverContext("p", {})) if flaw.rule == "whole"]
    assert next(np.flatnonzero(flaw.rows).tolist() for flaw in violations) == refused


def test_a_reward_of_another_peer_is_a_number() -> None:
    rows = steps().marked(SCORED, {"reward": [0.0, np.nan, -1e7, 1.0]})
    broken = {flaw.rule: np.flatnonzero(flaw.rows).tolist() for flaw in rows.violations(ReceiverContext("p", {}))}
    assert broken["reward"] == [1, 2]


def test_seats_of_an_episode_are_trajectories_of_their_own() -> None:
    assert steps().trajectory_codes().tolist() == [0, 1, 0, 1]
    assert len(set(steps(peer=["a", "a", "b", "b"]).trajectory_codes().tolist())) == 4
    assert len(Trajectories.empty().trajectory_codes()) == 0


def test_it_is_stored_as_flat_arrays_with_its_shapes() -> None:
    rows = steps().marked(VALUED, {"reward": [1.0] * 4, "advantage": [0.5] * 4, "target": [0.25] * 4})
    parts = split(rows.table)
    assert parts["observation"].shape == (4, 2, 3) and parts["mask"].dtype == np.int8
    again = join(rows.table.schema, lambda path, start, stop: parts[path][start:stop], 0, 4)
    assert Trajectories(again, marks=[VALUED]) == rows
    assert str(rows.edge_type) == "Valued[Trajectories]"
    assert rows.edge_type.marks > {SCORED}


def test_failed_steps_are_left_out_by_name() -> None:
    rows = steps(finish_reason=["failed", "", "", "truncated"])
    assert rows.finish_is("truncated").tolist() == [False, False, False, True]
    assert rows.finished().values("seat") == [1, 0, 1]


def test_boards_of_two_shapes_are_not_one_frame() -> None:
    other = steps(observation=np.zeros((4, 5), np.float32))
    with pytest.raises(ColumnError, match="do not fit together"):
        Trajectories.concat([steps(), other])
