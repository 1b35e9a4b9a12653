"""Log-probs of completions under a transformers causal language model; replace `completion_logprobs` for a kernel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.nodes.policy.compute.distribution import Places
from genrl_graph.nodes.policy.compute.hidden_states import HiddenStates, in_groups, right_padded
from genrl_graph.nodes.policy.compute.reading import Reading

LOGITS_AT_ONCE = 1 << 22
"""Most logits (elements) in memory at once in a training pass; beyond it the output layer runs in blocks."""


def logprobs_by_group(
    model: torch.nn.Module,
    sequences: Sequence[TokenSequence],
    temperatures: NDArray[np.float32],
    *,
    reading: Reading,
    plain_head: bool = True,
    shared: bool = False,
    unknown: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `completion_logprobs`, with only those rows in one call that `reading` allows."""

    def compute(rows: NDArray[np.int64]) -> tuple[torch.Tensor]:
        logprobs = completion_logprobs(
            model,
            [sequences[row] for row in rows],
            temperatures[rows],
            plain_head=plain_head,
            shared=shared,
            whole_rows=reading.whole_rows,
            unknown=unknown,
        )
        return (logprobs,)

    return in_groups(model, sequences, reading=reading, compute=compute)[0]


def completion_logprobs(
    model: torch.nn.Module,
    sequences: Sequence[TokenSequence],
    temperatures: NDArray[np.float32],
    *,
    plain_head: bool = True,
    shared: bool = False,
    whole_rows: bool = False,
    unknown: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return log-probs of the completion tokens: float32 [rows, longest completion], 0 beyond a row's completion.

    They are of the distribution that row i was sampled from (see `Places`): with its penalty, at temperatures[i] (0,
    which is greedy, counts as 1), without the ids in `unknown`, and with its support. Logits are computed for
    completion tokens only, in blocks that the backward pass recomputes. `plain_head` states that logits are the
    output layer applied to the last hidden state (see `has_plain_head`); otherwise the whole model computes them.
    `shared` packs the rows and computes shared prefixes, such as a prompt, once; the model must be `prepare`d for it.
    `whole_rows` also reads the last token of each row, for models to which the length of a row matters.
    """
    if not any(len(sequence.completion_ids) for sequence in sequences):
        return torch.zeros((len(sequences), 0), device=next(model.parameters()).device)
    inputs = [whole_of(sequence) if whole_rows else read_of(sequence) for sequence in sequences]
    if shared or plain_head:
        hidden = HiddenStates.of(model, inputs, shared=shared)
        return hidden_logprobs(model, hidden, sequences, temperatures, unknown=unknown)
    completions = _Completions.of(model, sequences, temperatures, unknown=unknown)
    ids, paths = right_padded(inputs).to(completions.device), [np.arange(len(row)) for row in inputs]
    places = completions.places(paths)
    first = int(places.min())
    with_logits = torch.arange(first, ids.shape[1], device=ids.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=with_logits).logits
    first = ids.shape[1] - logits.shape[1]  # some models give all logits whatever they are asked for
    return completions.padded(completions.into.logprobs(logits[completions.rows, places - first], completions.target))


def hidden_logprobs(
    model: torch.nn.Module,
    hidden: HiddenStates,
    sequences: Sequence[TokenSequence],
    temperatures: NDArray[np.float32],
    *,
    unknown: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the log-probs of `completion_logprobs` from the hidden states that a plain output layer reads."""
    if not any(len(sequence.completion_ids) for sequence in sequences):
        return torch.zeros((len(sequences), 0), device=hidden.states.device)
    completions = _Completions.of(model, sequences, temperatures, unknown=unknown)
    states = hidden.states[completions.places(hidden.paths)]
    return completions.padded(_in_blocks(_head(model), states, completions.target, completions.into))


@dataclass(frozen=True, slots=True)
class _Completions:
    """The completion tokens of rows, one after the other: row, column and id of each, and its distribution."""

    sequences: Sequence[TokenSequence]
    rows: torch.Tensor
    columns: torch.Tensor
    target: torch.Tensor
    into: Places
    device: torch.device

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        sequences: Sequence[TokenSequence],
        temperatures: NDArray[np.float32],
        *,
        unknown: torch.Tensor | None,
    ) -> "_Completions":
        device = next(model.parameters()).device
        lengths = np.array([len(sequence.completion_ids) for sequence in sequences], np.int64)
        row, column = np.nonzero(np.arange(int(lengths.max()))[None, :] < lengths[:, None])
        target = torch.from_numpy(np.concatenate([s.completion_ids for s in sequences]).astype(np.int64)).to(device)
        into = Places.of(sequences, temperatures, vocab_size=vocab_size(model), unknown=unknown, device=device)
        return cls(
            sequences, torch.from_numpy(row).to(device), torch.from_numpy(column).to(device), target, into, device
        )

    def places(self, paths: Sequence[NDArray[np.int64]]) -> torch.Tensor:
        """Return the place from which each token is predicted."""
        pairs = zip(paths, self.sequences, strict=True)
        return torch.from_numpy(np.concatenate([_predicting(path, s) for path, s in pairs])).to(self.device)

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """Arrange one value per token as [rows, longest completion], padded with 0."""
        longest = max(len(sequence.completion_ids) for sequence in self.sequences)
        empty = torch.zeros((len(self.sequences), longest), dtype=values.dtype, device=self.device)
        return empty.index_put((self.rows, self.columns), values)


def vocab_size(model: torch.nn.Module) -> int:
    """Return the number of ids that both the input and the output embeddings have; often more than the tokenizer's."""
    layers = (cast(Any, model).get_input_embeddings(), cast(Any, model).get_output_embeddings())
    return min(int(layer.weight.shape[0]) for layer in layers if layer is not None)


def read_of(sequence: TokenSequence) -> NDArray[np.int32]:
    """Return the model input of a row: all ids but the last, after which nothing is predicted."""
    return whole_of(sequence)[:-1]


def whole_of(sequence: TokenSequence) -> NDArray[np.int32]:
    """Return all ids of a row."""
    return np.concatenate([sequence.prompt_ids, sequence.completion_ids])


def _predicting(path: NDArray[np.int64], sequence: TokenSequence) -> NDArray[np.int64]:
    """Return the places of a row from which the tokens of its completion are predicted."""
    first = len(sequence.prompt_ids) - 1
    return path[first : first + len(sequence.completion_ids)]


def has_plain_head(model: torch.nn.Module) -> bool:
    """Test whether logits equal the output layer applied to the last hidden state, without soft cap or scale."""
    head = cast(Any, model).get_output_embeddings()
    base = cast(Any, model).base_model
    capped = getattr(cast(Any, model).config, "final_logit_softcapping", None) is not None
    if head is None or base is model or capped:
        return False
    device = next(model.parameters()).device
    ids = torch.linspace(0, head.weight.shape[0] - 1, 8, device=device).long()[None]
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            direct = head(base(input_ids=ids, use_cache=False).last_hidden_state)
            whole = model(input_ids=ids, use_cache=False).logits
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False  # something stands between the last hidden state and the output layer
    return bool(direct.shape == whole.shape and (direct - whole).abs().max() <= 1e-4 * whole.abs().max())


def _head(model: torch.nn.Module) -> torch.nn.Module:
    return cast(torch.nn.Module, cast(Any, model).get_output_embeddings())


def _in_blocks(head: torch.nn.Module, hidden: torch.Tensor, target: torch.Tensor, places: Places) -> torch.Tensor:
    """Compute log-probs in blocks of at most `LOGITS_AT_ONCE` logits; the backward pass recomputes them."""
    size = max(1, LOGITS_AT_ONCE // int(cast(torch.Tensor, head.weight).shape[0]))
    if len(hidden) <= size:
        return _block(head, hidden, target, places)
    blocks = zip(torch.split(hidden, size), torch.split(target, size), places.split(size), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([_block(head, *block) for block in blocks])
    values = [
        cast(torch.Tensor, checkpoint(_block, head, *block, use_reentrant=False, preserve_rng_state=False))
        for block in blocks
    ]
    return torch.cat(values)


def _block(head: torch.nn.Module, hidden: torch.Tensor, target: torch.Tensor, places: Places) -> torch.Tensor:
    return places.logprobs(head(hidden), target)
