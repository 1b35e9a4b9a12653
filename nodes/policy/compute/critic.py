"""The critic of a language model: values of the states of completions, from hidden states of a transformers model."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.compute.hidden_states import HiddenStates, in_groups
from genrl_graph.nodes.policy.compute.logprobs import hidden_logprobs, whole_of
from genrl_graph.nodes.policy.compute.packed_forward import prepare
from genrl_graph.nodes.policy.compute.reading import Reading
from genrl_graph.nodes.policy.compute.weights import PREFIX, named_tensors
from genrl_graph.nodes.policy.critic_params import CriticParams


class Critic(torch.nn.Module):
    """A linear head that starts at 0, on hidden states of the policy's model or of a model of its own (`trunk`).

    The head computes in float32: bfloat16 would round a value of 100 to steps of 0.5.
    """

    def __init__(self, width: int, params: CriticParams, trunk: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.params = params
        self.trunk = trunk
        self.head = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    @classmethod
    def on(
        cls,
        model: torch.nn.Module,
        params: CriticParams,
        *,
        copied: Callable[[torch.nn.Module], torch.nn.Module],
        where: str,
    ) -> "Critic":
        """Return a new critic for a model, on its device; `copied` copies a model for a critic with its own.

        Raises `DataError` for an architecture without hidden states to read.
        """
        output, base = cast(Any, model).get_output_embeddings(), cast(Any, model).base_model
        if output is None or base is model:
            raise DataError(f"{where}: this architecture has no hidden states that a critic could read; remove critic")
        trunk = None if params.head else copied(base)
        return cls(int(output.weight.shape[1]), params, trunk).to(output.weight.device).eval()

    def own_weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors that are saved and digested, sorted by name; frozen ones belong to a shared base."""
        return {
            name: tensor
            for name, tensor in named_tensors(self).items()
            if tensor.requires_grad or not isinstance(tensor, torch.nn.Parameter)
        }

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that an optimiser steps, under the names that they have among the policy's."""
        return {PREFIX + name: weight for name, weight in sorted(self.named_parameters()) if weight.requires_grad}

    def of_hidden(self, hidden: HiddenStates, sequences: Sequence[TokenSequence]) -> torch.Tensor:
        """Return the values [rows, longest completion + 1] from the hidden states of whole rows."""
        lengths = np.array([len(sequence.completion_ids) + 1 for sequence in sequences], np.int64)
        device = hidden.states.device
        row, column = np.nonzero(np.arange(int(lengths.max(initial=1)))[None, :] < lengths[:, None])
        pairs = zip(hidden.paths, sequences, strict=True)
        places = [path[len(s.prompt_ids) - 1 : len(s.prompt_ids) + len(s.completion_ids)] for path, s in pairs]
        states = hidden.states[torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *places])).to(device)]
        with torch.autocast(device.type, enabled=False):
            values = self.head((states.detach() if self.params.detach else states).float())[:, 0]
        empty = torch.zeros((len(sequences), int(lengths.max(initial=1))), device=device)
        return empty.index_put((torch.from_numpy(row).to(device), torch.from_numpy(column).to(device)), values)

    def values(
        self, model: torch.nn.Module, sequences: Sequence[TokenSequence], *, reading: Reading, shared: bool
    ) -> torch.Tensor:
        """Return the values [rows, longest completion + 1], with only those rows in one call that `reading` allows.

        `model` is the policy's; a critic with a trunk of its own reads that instead.
        """
        if not sequences:
            return torch.zeros((0, 1), device=self.head.weight.device)
        read = model if self.trunk is None else self.trunk
        packs = shared and (self.trunk is None or self._trunk_packs)

        def compute(rows: NDArray[np.int64]) -> tuple[torch.Tensor]:
            some = [sequences[row] for row in rows]
            hidden = HiddenStates.of(read, [whole_of(sequence) for sequence in some], shared=packs)
            return (self.of_hidden(hidden, some),)

        return in_groups(read, sequences, reading=reading, compute=compute)[0]

    @cached_property
    def _trunk_packs(self) -> bool:
        """Return whether the trunk computes shared prefixes once; the first access prepares and tests it."""
        return self.trunk is not None and prepare(self.trunk)


def logprobs_and_values(
    model: torch.nn.Module,
    critic: Critic,
    sequences: Sequence[TokenSequence],
    temperatures: NDArray[np.float32],
    *,
    reading: Reading,
    shared: bool,
    unknown: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probs and values of rows from one forward pass of a model with a plain output layer."""

    def compute(rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        some = [sequences[row] for row in rows]
        hidden = HiddenStates.of(model, [whole_of(sequence) for sequence in some], shared=shared)
        logprobs = hidden_logprobs(model, hidden, some, temperatures[rows], unknown=unknown)
        return logprobs, critic.of_hidden(hidden, some)

    logprobs, values = in_groups(model, sequences, reading=reading, compute=compute)
    return logprobs, values
