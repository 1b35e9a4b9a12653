"""Streams and ids are pure functions of named parts, the same in every version and on every machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.seeds import digest, group_id, rollout_id, stream, substream

PARTS = st.lists(st.one_of(st.text(), st.integers(), st.binary()), max_size=4).map(tuple)
BASE = {
    "protocol": "p",
    "peer": "peer0000",
    "round": 1,
    "node": "answer",
    "task_id": "tasks/1",
    "parent_ids": ["a", "b"],
    "sample": 0,
    "prompt_ids": np.array([1, 2], np.int32),
    "completion_ids": np.array([3], np.int32),
}


Parts = tuple[str | int | bytes, ...]


@given(PARTS, PARTS)
def test_digests_differ_where_parts_differ(first: Parts, second: Parts) -> None:
    typed = [[(type(part), part) for part in parts] for parts in (first, second)]
    assert (digest(first) == digest(second)) == (typed[0] == typed[1])


def test_the_digest_is_the_one_that_stored_runs_have() -> None:
    assert digest(("ab", "c", 1, b"x")) == "7f3937891c144a0fadd14ad5a732bffb"
    assert digest(("ab", "c")) != digest(("a", "bc"))
    assert digest((1,)) != digest(("1",))
    assert digest((np.int64(5), True)) == digest((5, 1))  # type: ignore[arg-type]  # counts are often numpy's
    with pytest.raises(TypeError):
        digest((1.5,))  # type: ignore[arg-type]


def test_the_stream_is_the_one_that_stored_runs_had() -> None:
    assert stream(0, 1, "answer", "peer0000").integers(1000, size=4).tolist() == [571, 92, 659, 998]


def test_a_stream_depends_on_every_part() -> None:
    draws = [stream(*parts).integers(2**62) for parts in ((0, 1, "a", "p"), (1, 1, "a", "p"), (0, 2, "a", "p"))]
    draws += [stream(0, 1, "b", "p").integers(2**62), stream(0, 1, "a", "q").integers(2**62)]
    assert len(set(draws)) == len(draws)
    assert stream(0, 1, "a", "p").integers(2**62) == draws[0]


def test_a_substream_does_not_depend_on_how_far_its_parent_was_read() -> None:
    fresh, read = stream(7), stream(7)
    read.random(100)
    assert substream(fresh, "x").random() == substream(read, "x").random()
    assert substream(fresh, "x").random() != substream(fresh, "y").random()
    assert substream(fresh, "x").random() != substream(stream(8), "x").random()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("protocol", "q"),
        ("peer", "peer0001"),
        ("round", 2),
        ("node", "final"),
        ("task_id", "tasks/2"),
        ("parent_ids", ["a"]),
        ("parent_ids", ["ab", ""]),
        ("sample", 1),
        ("prompt_ids", np.array([1], np.int32)),
        ("completion_ids", np.array([3, 4], np.int32)),
        ("completion_ids", np.array([], np.int32)),
    ],
)
def test_a_rollout_id_depends_on_where_it_was_made_and_of_what(name: str, other: object) -> None:
    assert rollout_id(**(BASE | {name: other})) != rollout_id(**BASE)  # type: ignore[arg-type]


def test_ids_do_not_depend_on_the_dtype_of_tokens() -> None:
    wide = BASE | {"prompt_ids": np.array([1, 2], np.int64), "completion_ids": np.array([3], ">i4")}
    assert rollout_id(**wide) == rollout_id(**BASE)  # type: ignore[arg-type]
    assert rollout_id(**(BASE | {"sample": np.int64(0)})) == rollout_id(**BASE)  # type: ignore[arg-type]


def test_rollouts_of_one_prompt_share_a_group() -> None:
    shared = {name: BASE[name] for name in ("protocol", "peer", "round", "node", "task_id", "prompt_ids")}
    assert group_id(**shared) == group_id(**shared)  # type: ignore[arg-type]
    for name, other in (("peer", "q"), ("node", "final"), ("round", 9), ("prompt_ids", np.array([9], np.int32))):
        assert group_id(**(shared | {name: other})) != group_id(**shared)  # type: ignore[arg-type]
    assert group_id(**shared) != rollout_id(**BASE)  # type: ignore[arg-type]
