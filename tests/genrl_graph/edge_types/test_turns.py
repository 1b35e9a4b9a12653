"""Turns: ids, the rules for turns from other peers, the round trip to flat arrays and packets, and the transcript."""

from typing import Any

import numpy as np
import pytest

from genrl_graph.arrow.flat import join, split
from genrl_graph.edge_types.edge_type import SCORED
from genrl_graph.edge_types.rollouts import Rollouts
from genrl_graph.edge_types.trajectories import episode_id
from genrl_graph.edge_types.turns import Turns
from genrl_graph.edge_types.violation import ReceiverContext
from genrl_graph.nodes.roles import endings
from genrl_graph.seeds import group_id
from genrl_graph.wire.packet import PacketLimits, decode, encode

WHERE: dict[str, Any] = {"protocol": "p", "peer": "peer0000", "round": 2, "node": "play", "task_id": "tasks/0"}
PROMPTS = [np.asarray(ids, np.int32) for ids in ([1], [2], [1, 5, 3], [2, 6, 4])]
COMPLETIONS = [np.asarray(ids, np.int32) for ids in ([5], [6], [7, 8], [5])]
COLUMNS: dict[str, Any] = {
    "task_id": ["tasks/0"] * 4,
    "group_id": [group_id(**WHERE, prompt_ids=ids) for ids in PROMPTS],
    "parent_ids": [[]] * 4,
    "peer": ["peer0000"] * 4,
    "node": ["play"] * 4,
    "stage": [0] * 4,
    "round": [2] * 4,
    "sample": [0] * 4,
    "policy": ["policy"] * 4,
    "policy_version": [7] * 4,
    "tokenizer_fingerprint": ["t"] * 4,
    "temperature": [1.0] * 4,
    "messages": [[{"role": "user", "content": "go"}]] * 4,
    "prompt_ids": PROMPTS,
    "completion_ids": COMPLETIONS,
    "completion_mask": [[1], [1], [1, 1], [1]],
    "logprobs": [[-0.5], [-0.5], [-0.5, -0.5], [-0.5]],
    "completion": ["a", "b", " say c", "d"],
    "finish_reason": ["stop"] * 4,
    "error": [""] * 4,
    "episode": [episode_id(**WHERE, sample=0)] * 4,
    "seat": [0, 1, 0, 1],
    "turn": [0, 0, 1, 1],
    "move": [0, 1, 2, 3],
    "heard": [[{"role": "game", "content": "go"}], [{"role": "seat 0", "content": "a"}], [], []],
    "action": ["a", "b", "c", "d"],
    "ending": ["", "", "terminated", "terminated"],
}


def turns(**changed: object) -> Turns:
    rows = Turns.from_columns({"id": [""] * 4, **COLUMNS, **changed})
    table = rows.table
    index = table.column_names.index("id")
    ids = rows.content_ids(protocol="p")
    return Turns(table.set_column(index, "id", [ids]))


def rules(rows: Turns) -> set[str]:
    return {flaw.rule for flaw in rows.violations(ReceiverContext("p", {})) if flaw.rows.any()}


def test_turns_are_rollouts_whose_ids_lead_to_their_episode() -> None:
    rows = turns()
    assert isinstance(rows, Rollouts) and rules(rows) == set()
    assert {Turns.trajectory_id(id) for id in rows.values("id")} == {rows.values("episode")[0]}
    assert len(set(rows.values("id"))) == 4
    same: dict[str, Any] = {"prompt_ids": [PROMPTS[0]] * 4, "completion_ids": [COMPLETIONS[0]] * 4}
    same |= {"completion_mask": [[1]] * 4, "logprobs": [[-0.5]] * 4}
    assert len(set(turns(**same).values("id"))) == 4  # the same words at another turn are another row


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"seat": [0, -1, 0, -1]}, "seat"),
        ({"turn": [0, 0, -1, 1]}, "negative"),
        ({"move": [0, 1, 2, -3]}, "negative"),
        ({"turn": [0, 0, 2, 1]}, "whole"),
        ({"ending": ["", "", "", "terminated"]}, "whole"),
        ({"ending": ["terminated", "", "terminated", "terminated"]}, "whole"),
        ({"ending": ["", "", "won", "terminated"]}, "ending"),
        ({"ending": ["", "", "failed", "terminated"]}, "ending"),
        ({"finish_reason": ["stop", "stop", "stop", "failed"]}, "ending"),
        ({"episode": ["e"] * 4}, "episode"),
        ({"logprobs": [[0.5], [-0.5], [-0.5, -0.5], [-0.5]]}, "logprobs"),
        ({"sample": [0, 0, 0, -1]}, "negative"),
    ],
)
def test_what_no_dialogue_gives_is_refused_with_all_turns_of_its_seat(changed: dict[str, Any], rule: str) -> None:
    assert rule in rules(turns(**changed))
    whole = np.zeros(4, dtype=bool)
    for flaw in turns(**changed).violations(ReceiverContext("p", {})):
        whole |= flaw.rows
    assert whole.tolist() in ([True, False, True, False], [False, True, False, True], [True] * 4)


def test_a_forged_id_and_an_unbounded_reward_are_refused() -> None:
    rows = turns()
    assert "hash" in {f.rule for f in rows.violations(ReceiverContext("q", {})) if f.rows.any()}
    scored = rows.marked(SCORED, {"reward": [0.0, 1e9, 0.0, 1.0]})
    assert "reward" in rules(scored)


def test_turns_survive_arrays_and_packets() -> None:
    rows = turns().marked(SCORED, {"reward": [0.0, 0.0, 1.0, -1.0]})
    flat = split(rows.table)

    def read(path: str, start: int, stop: int) -> Any:
        values = flat[path]
        return np.concatenate([[0], values])[start:stop] if path.endswith("/offsets") else values[start:stop]

    assert Turns(join(rows.table.schema, read, 0, 4), marks=rows.marks) == rows
    limits = PacketLimits(
        max_rows=9, max_row_bytes=2**16, max_payload_bytes=2**16, max_decoded_bytes=2**18, max_list=2**12
    )
    assert decode(encode(rows), like=rows, limits=limits) == rows


def test_an_outcome_is_that_of_a_seat_in_an_episode() -> None:
    ending = endings(turns().marked(SCORED, {"reward": [0.5, 0.0, 1.0, -1.0]}))
    assert list(ending.roles) == ["tasks/0", "tasks/1"]
    assert ending.outcomes.tolist() == [1.5, -1.0] and ending.of_row.tolist() == [0, 1, 0, 1]


def test_an_episode_reads_move_by_move() -> None:
    rows = turns().marked(SCORED, {"reward": [0.0, 0.0, 1.0, -1.0]}).take([3, 1, 2, 0])
    (transcript,) = rows.transcripts()
    assert transcript.rows.tolist() == [3, 1, 2, 0]
    assert transcript.facts == "4 turns, terminated, seat 0 1, seat 1 -1"
    assert transcript.gist == "actions a b c d"
    assert transcript.parts == (
        ("[game to seat 0]", "go"),
        ("[seat 0]", "a"),
        ("[seat 0 to seat 1]", "a"),
        ("[seat 1]", "b"),
        ("[seat 0: plays 'c', reward 1]", " say c"),
        ("[seat 1: reward -1]", "d"),
    )
