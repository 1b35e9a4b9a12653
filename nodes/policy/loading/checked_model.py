"""Check a model against what its folder says: its size before it is loaded, its weights and ids after."""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

from genrl_graph.errors import DataError
from genrl_graph.messages import counted
from genrl_graph.nodes.policy.compute.device import line_of
from genrl_graph.nodes.policy.loading.checked_folder import StoredWeights

MOST_BUFFERS = 1 << 26
"""Most elements of buffers, such as masks, that a model may have beyond four for each of its weights."""


MOST_MISSING = 1 << 20
"""Most weights that a model may have beyond two for each that is stored."""


def check_size(build: Callable[[], torch.nn.Module], stored: StoredWeights, *, where: str) -> None:
    """Raise `DataError` if a configuration describes a model that is larger than its stored weights.

    `build` makes the model of the configuration; it is called without memory, on torch's meta device.
    """
    try:
        with torch.device("meta"):
            model = build()
    except Exception as error:  # whatever the model's own code raises
        raise DataError(f"{where}: transformers cannot build it: {line_of(error)}") from error
    weights = sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.numel() for buffer in model.buffers())
    if weights > MOST_MISSING + 2 * stored.elements:  # fewer are told by name, once the rest is loaded
        raise DataError(
            f"{where}: its configuration describes {weights} weights, its safetensors hold {stored.elements}; "
            "download it again, or name a folder in which they agree"
        )
    if buffers > MOST_BUFFERS + 4 * weights:
        raise DataError(f"{where}: its configuration describes {buffers} numbers beside its {weights} weights")


def check_vocabulary(model: torch.nn.Module, tokenizer: Any, *, where: str) -> None:
    """Raise `DataError` if the tokenizer has ids without a weight."""
    rows = int(cast(Any, model).get_input_embeddings().weight.shape[0])
    token, last = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if last >= rows:
        raise DataError(
            f"{where}: its tokenizer has the token {token!r} with id {last}, but its embedding ends at {rows - 1}; "
            "resize the embedding and save the model again"
        )


def check_weights(model: torch.nn.Module, report: Mapping[str, Any], *, where: str, kind: str) -> None:
    """Raise `DataError` if weights are missing, left over or not finite; `report` is what `from_pretrained` says."""
    for found, why in (
        ("missing_keys", "lacks weights that the model has"),
        ("mismatched_keys", "has weights of other shapes than the model"),
        ("unexpected_keys", "has weights that the model does not have"),
    ):
        names = sorted(str(name if isinstance(name, str) else name[0]) for name in report.get(found, ()))
        if names:
            more = f" and {counted(len(names) - 1, 'other')}" if len(names) > 1 else ""
            raise DataError(f"{where}: {why}: {names[0]}{more}; is it {kind}, and whole?")
    for name, parameter in model.named_parameters():
        if not math.isfinite(float(parameter.detach().sum())):
            raise DataError(f"{where}: the weight {name} is not finite; its file is damaged")
