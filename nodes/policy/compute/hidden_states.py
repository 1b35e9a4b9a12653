"""Last hidden states of rows in one forward pass, padded or packed, and calls with the rows that a model allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.nodes.policy.compute.call_state import restore
from genrl_graph.nodes.policy.compute.packed_forward import packed_hidden_states
from genrl_graph.nodes.policy.compute.packing import Packed
from genrl_graph.nodes.policy.compute.reading import Reading


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Hidden states [places, width] of a forward pass; `paths` hold the places of each row's tokens, in order."""

    states: torch.Tensor
    paths: Sequence[NDArray[np.int64]]

    @classmethod
    def of(cls, model: torch.nn.Module, inputs: Sequence[NDArray[np.int32]], *, shared: bool) -> Self:
        """Read rows of token ids, at least one, in one call.

        `shared` packs the rows and computes shared prefixes, such as a prompt, once; the model must be `prepare`d for
        it.
        """
        if shared:
            packed = Packed.of(inputs)
            return cls(packed_hidden_states(model, packed), packed.paths)
        # causal attention never sees padding on the right, so no mask is needed and attention is fastest
        ids = right_padded(inputs).to(next(model.parameters()).device)
        states = cast(Any, model).base_model(input_ids=ids, use_cache=False).last_hidden_state
        return cls(states.flatten(0, 1), [at * ids.shape[1] + np.arange(len(row)) for at, row in enumerate(inputs)])


def in_groups(
    model: torch.nn.Module,
    sequences: Sequence[TokenSequence],
    *,
    reading: Reading,
    compute: Callable[[NDArray[np.int64]], tuple[torch.Tensor, ...]],
) -> tuple[torch.Tensor, ...]:
    """Call `compute` with the positions of rows that may be in one call; put its tensors [rows, columns] together."""
    groups = reading.groups([len(s.prompt_ids) + len(s.completion_ids) for s in sequences])
    parts = []
    for rows in groups or [np.zeros(0, np.int64)]:
        restore(model)
        parts.append(compute(rows))
    if len(parts) == 1:
        return parts[0]
    order = torch.from_numpy(np.argsort(np.concatenate(groups)))
    joined = []
    for tensors in zip(*parts, strict=True):
        longest = max(tensor.shape[1] for tensor in tensors)
        together = torch.cat([pad(tensor, (0, longest - tensor.shape[1])) for tensor in tensors])
        joined.append(together[order.to(together.device)])
    return tuple(joined)


def right_padded(rows: Sequence[NDArray[np.int32]]) -> torch.Tensor:
    """Return rows of token ids as int64 [rows, longest], padded with 0 on the right."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return torch.from_numpy(ids)
