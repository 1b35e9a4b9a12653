"""The rows of an update of a language model, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrl_graph.contract.policy import TextPolicy, TokenSequence
from genrl_graph.edge_types.rollouts import TOKEN_VALUED, Rollouts


@dataclass(slots=True)
class TokenValues:
    """The columns that `advantage.text_gae` added to each row, as arrays of shape (tokens,)."""

    values: list[NDArray[np.float32]]
    advantages: list[NDArray[np.float32]]
    targets: list[NDArray[np.float32]]


@dataclass(slots=True)
class TrainingBatch:
    """The rows to train on, as arrays.

    `sampled` marks the tokens that the policy sampled, `masks` those that are trained on. `initial_logprobs` are the
    policy's before its first step, by row position.
    """

    ids: list[str]
    groups: list[str]
    sequences: list[TokenSequence]
    logprobs: list[NDArray[np.float32]]
    temperatures: NDArray[np.float32]
    advantages: NDArray[np.float64]
    sampled: list[NDArray[np.int8]]
    masks: list[NDArray[np.int8]]
    own: NDArray[np.bool_]
    versions: NDArray[np.int64]
    tokens: TokenValues | None = None
    initial_logprobs: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Rollouts, *, policy: TextPolicy, peer: str) -> "TrainingBatch":
        """Read the arrays of `rows`; `own` marks the rows that this policy sampled."""
        authors = zip(rows.values("peer"), rows.values("policy"), strict=True)
        columns = ("values", "token_advantages", "targets")
        return cls(
            rows.values("id"),
            rows.values("group_id"),
            TokenSequence.of(rows),
            rows.ragged("logprobs"),
            rows.numpy("temperature"),
            rows.numpy("advantage"),
            rows.ragged("completion_mask"),
            rows.ragged("completion_mask"),
            np.asarray([author == (peer, policy.name) for author in authors], dtype=bool),
            rows.numpy("policy_version"),
            TokenValues(*map(rows.ragged, columns)) if TOKEN_VALUED in rows.marks else None,
        )


def padded(rows: Sequence[NDArray[Any]], like: Tensor) -> Tensor:
    """Return rows of numbers of shape (tokens,) as a tensor of the shape of `like` [rows, tokens], padded with 0."""
    values = np.zeros(tuple(like.shape), dtype=rows[0].dtype if len(rows) else np.float32)
    for at, row in enumerate(rows):
        values[at, : len(row)] = row
    return torch.as_tensor(values, device=like.device)
