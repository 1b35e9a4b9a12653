"""Calls between ranks are arrays and JSON, and rows are shared out by their lengths."""

import numpy as np
import pytest

from genrl_graph.contract.policy import Completion, Support, TokenSequence
from genrl_graph.nodes.policy.replicas.calls import (
    Call,
    completion_arrays,
    completions_of,
    of_bytes,
    sequence_arrays,
    sequences_of,
    to_bytes,
)
from genrl_graph.nodes.policy.replicas.group import shares

IDS = np.arange(5, dtype=np.int32)
SUPPORT = Support(np.asarray([3, 1, 4], np.int32), np.asarray([2, 0, 1], np.int32))


def test_a_call_arrives_as_it_was_sent() -> None:
    call = Call(3, "read", {"what": "both", "pass": 7}, {"rate": np.asarray([[0.5], [2.0]])}, gathered=True)
    other = Call.decode(call.encode())
    assert (other.policy, other.method, other.options, other.gathered) == (3, "read", {"what": "both", "pass": 7}, True)
    assert other.arrays["rate"].dtype == np.float64 and other.arrays["rate"].tolist() == [[0.5], [2.0]]


def test_sequences_and_completions_keep_supports_penalties_and_empty_rows() -> None:
    sequences = [TokenSequence(IDS, IDS[:3], SUPPORT, 1.5), TokenSequence(IDS[:1], IDS[:0])]
    again = sequences_of(of_bytes(to_bytes(sequence_arrays(sequences))))
    assert [(len(s.prompt_ids), len(s.completion_ids), s.repetition_penalty) for s in again] == [
        (5, 3, 1.5),
        (1, 0, 1.0),
    ]
    assert again[0].support is not None and again[0].support.ids.tolist() == [3, 1, 4] and again[1].support is None
    completions = [Completion(IDS, np.full(5, -1.0, np.float32), "größer", "stop", SUPPORT)]
    (completion,) = completions_of(of_bytes(to_bytes(completion_arrays(completions))))
    assert (completion.text, completion.finish_reason, completion.ids.tolist()) == ("größer", "stop", IDS.tolist())
    assert completions_of(completion_arrays([])) == [] and sequences_of(sequence_arrays([])) == []


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_row_has_one_rank_and_the_ranks_have_about_as_many_tokens(parts: int) -> None:
    lengths = np.random.default_rng(parts).integers(1, 100, 200)
    cut = shares(lengths, parts)
    assert np.concatenate(cut).tolist() == list(range(200))
    sums = [int(lengths[rows].sum()) for rows in cut]
    assert max(sums) - min(sums) <= 200
    assert [len(rows) for rows in shares(np.asarray([9]), 3)].count(1) == 1
    assert [len(rows) for rows in shares(np.asarray([], np.int64), 2)] == [0, 0]
