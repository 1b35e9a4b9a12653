"""Checks of rollouts from another peer: values that no generator produces, and ids that do not match the content."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrl_graph.arrow.row_sums import per_row
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.violation import Mask, ReceiverContext, Violation
from genrl_graph.seeds import group_id, rollout_id

FINISHES = ("stop", "length", "failed")
MOST_PARENTS = 4096
MOST_LOGPROB = 1e-3  # rounding may leave log-probs slightly above 0
MOST_TOKENS = 2**31  # bound on token ids of an unknown tokenizer


def rollout_flaws(rows: Frame, known: ReceiverContext) -> Iterator[Violation]:
    """Yield the violations in rollouts from another peer, except those of their ids, which take more time."""
    tokens = _lengths(rows, "completion_ids")
    for name in ("completion_mask", "logprobs"):
        yield Violation("lengths", name, _lengths(rows, name) != tokens)
    masks = _any_element(rows, "completion_mask", lambda flat: (flat < 0) | (flat > 1))
    yield Violation("mask", "completion_mask", masks)
    yield Violation("logprobs", "logprobs", _any_element(rows, "logprobs", lambda flat: flat > MOST_LOGPROB))
    for name in ("prompt_ids", "completion_ids"):
        yield Violation("tokens", name, _out_of_vocabulary(rows, name, known.vocabularies))
    for name in ("sample", "policy_version", "temperature"):
        yield Violation("negative", name, rows.numpy(name) < 0)
    finishes = pc.is_in(rows.table.column("finish_reason"), pa.array(FINISHES))
    yield Violation("finish_reason", "finish_reason", ~finishes.to_numpy())
    yield Violation("parents", "parent_ids", _lengths(rows, "parent_ids") > MOST_PARENTS)


def content_ids(rows: Frame, *, protocol: str) -> list[str]:
    """Return the id that each rollout must have in a graph with this protocol fingerprint."""
    columns = [rows.values(name) for name in ("peer", "round", "node", "task_id", "sample")]
    tokens = zip(rows.ragged("prompt_ids"), rows.ragged("completion_ids"), strict=True)
    parents = rows.table.column("parent_ids")  # read row by row: many empty texts are small in Arrow, large in Python
    ids = []
    for position, (*fields, (prompt, completion)) in enumerate(zip(*columns, tokens, strict=True)):
        peer, round, node, task_id, sample = fields
        where = {"protocol": protocol, "peer": peer, "round": round, "node": node, "task_id": task_id}
        parent_ids = parents[position].as_py()
        ids.append(
            rollout_id(**where, parent_ids=parent_ids, sample=sample, prompt_ids=prompt, completion_ids=completion)
        )
    return ids


def group_ids(rows: Frame, *, protocol: str) -> list[str]:
    """Return the group id that each rollout must have in a graph with this protocol fingerprint."""
    columns = [rows.values(name) for name in ("peer", "round", "node", "task_id")]
    groups = []
    for *fields, prompt in zip(*columns, rows.ragged("prompt_ids"), strict=True):
        peer, round, node, task_id = fields
        groups.append(
            group_id(protocol=protocol, peer=peer, round=round, node=node, task_id=task_id, prompt_ids=prompt)
        )
    return groups


def _out_of_vocabulary(rows: Frame, name: str, vocabularies: Mapping[str, int]) -> Mask:
    """Return the rows with a token id below 0 or beyond the vocabulary of their tokenizer."""
    sizes = np.asarray([*vocabularies.values(), MOST_TOKENS], np.int64)
    known = pc.index_in(rows.table.column("tokenizer_fingerprint"), pa.array(vocabularies, pa.string()))
    bounds = np.repeat(sizes[known.fill_null(len(vocabularies)).to_numpy()], _lengths(rows, name))
    return _any_element(rows, name, lambda flat: (flat < 0) | (flat >= bounds))


def _lengths(rows: Frame, name: str) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = pc.list_value_length(rows.table.column(name)).to_numpy().astype(np.int64)
    return lengths


def _any_element(rows: Frame, name: str, bad: Callable[[NDArray[Any]], Mask]) -> Mask:
    """Return the rows with at least one list element for which `bad` holds."""
    counts = per_row(rows.table.column(name), lambda flat: bad(flat.to_numpy(zero_copy_only=False)).astype(np.int64))
    return counts > 0
