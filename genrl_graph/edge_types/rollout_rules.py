"""What is wrong in rollouts of another peer: values that no generator gives, and ids that hash to something else."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrl_graph.arrow.row_sums import per_row
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.violation import Mask, ReceiverContext, Violation, differing
from genrl_graph.seeds import group_id, rollout_id

FINISHES = ("stop", "length", "failed")
MOST_PARENTS = 4096
MOST_LOGPROB = 1e-3  # what rounding may leave above 0
MOST_TOKENS = 2**31  # where the vocabulary is not known


def rollout_flaws(rows: Frame, known: ReceiverContext) -> Iterator[Violation]:
    """The flaws of rollouts, the cheap ones first."""
    tokens = _lengths(rows, "completion_ids")
    for name in ("completion_mask", "logprobs"):
        yield Violation("lengths", name, _lengths(rows, name) != tokens)
    yield Violation("mask", "completion_mask", _any(rows, "completion_mask", lambda flat: (flat < 0) | (flat > 1)))
    yield Violation("logprobs", "logprobs", _any(rows, "logprobs", lambda flat: flat > MOST_LOGPROB))
    for name in ("prompt_ids", "completion_ids"):
        yield Violation("tokens", name, _outside(rows, name, known.vocabularies))
    for name in ("sample", "policy_version", "temperature"):
        yield Violation("negative", name, rows.numpy(name) < 0)
    finishes = pc.is_in(rows.table.column("finish"), pa.array(FINISHES))
    yield Violation("finish", "finish", ~finishes.to_numpy())
    yield Violation("parents", "parent_ids", _lengths(rows, "parent_ids") > MOST_PARENTS)
    yield from _forged(rows, known.protocol)


def _forged(rows: Frame, protocol: str) -> Iterator[Violation]:
    """Ids and group ids that are not the hash of what they name."""
    columns = [rows.values(name) for name in ("peer", "round", "node", "task_id", "sample")]
    tokens = zip(rows.ragged("prompt_ids"), rows.ragged("completion_ids"), strict=True)
    parents = rows.table.column("parent_ids")  # a row at a time: many empty texts are small here and large in Python
    ids, groups = list[str](), list[str]()
    for at, (*named, (prompt, completion)) in enumerate(zip(*columns, tokens, strict=True)):
        peer, round, node, task_id, sample = named
        where = {"protocol": protocol, "peer": peer, "round": round, "node": node, "task_id": task_id}
        ids.append(
            rollout_id(
                **where, parent_ids=parents[at].as_py(), sample=sample, prompt_ids=prompt, completion_ids=completion
            )
        )
        groups.append(group_id(**where, prompt_ids=prompt))
    yield Violation("hash", "id", differing(rows.values("id"), ids))
    yield Violation(
        "hash", "group_id", pc.not_equal(rows.table.column("group_id"), pa.array(groups, pa.string())).to_numpy()
    )


def _outside(rows: Frame, name: str, vocabularies: Mapping[str, int]) -> Mask:
    """Rows with a token id below 0 or beyond the vocabulary of their tokenizer."""
    sizes = np.asarray([*vocabularies.values(), MOST_TOKENS], np.int64)
    known = pc.index_in(rows.table.column("tokenizer"), pa.array(vocabularies, pa.string()))
    bounds = np.repeat(sizes[known.fill_null(len(vocabularies)).to_numpy()], _lengths(rows, name))
    return _any(rows, name, lambda flat: (flat < 0) | (flat >= bounds))


def _lengths(rows: Frame, name: str) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = pc.list_value_length(rows.table.column(name)).to_numpy().astype(np.int64)
    return lengths


def _any(rows: Frame, name: str, bad: Callable[[NDArray[Any]], Mask]) -> Mask:
    """Rows of a list column of numbers for some of whose elements `bad` holds."""
    counts = per_row(rows.table.column(name), lambda flat: bad(flat.to_numpy(zero_copy_only=False)).astype(np.int64))
    return counts > 0
