"""Activation checkpointing (arXiv 1604.06174) of as many layers of a transformers model as a limit of memory asks."""

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from genrl_graph.costs import recomputed_layers


class Recompute:
    """Which layers of a model keep only their input, and compute the rest again in the backward pass.

    `limit` is what a micro-batch may keep, in bytes: with 0 all layers compute again, always, with infinity none does.
    Gradients are the same to the bit. A model without such layers keeps everything.
    """

    def __init__(self, model: torch.nn.Module, limit: float) -> None:
        self._model: Any = model
        self._limit = limit
        able = getattr(model, "supports_gradient_checkpointing", False)
        layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        self._layers = layers if able and 0 < limit < math.inf else []
        if self._layers or limit == 0:
            older = "gradient_checkpointing_enable"  # its name before transformers renamed it
            enable = getattr(model, "activation_checkpointing_enable", None) or getattr(model, older)
            enable({"use_reentrant": False})
        self._recompute(0)

    @property
    def depends(self) -> bool:
        """Whether the layers that compute again depend on the micro-batch."""
        return bool(self._layers)

    @property
    def any(self) -> bool:
        """Whether a layer computes again, which it does in training mode only."""
        return self._limit == 0 or any(layer.gradient_checkpointing for layer in self._layers)

    def fit(self, tokens: int, saved_token: float) -> None:
        """Choose the layers for a micro-batch of so many tokens, of each of which all layers would keep some bytes."""
        count, hidden = len(self._layers), int(self._model.config.get_text_config().hidden_size)
        self._recompute(
            recomputed_layers(tokens, layers=count, hidden=hidden, saved_token=saved_token, limit=self._limit)
        )

    def _recompute(self, count: int) -> None:
        for at, layer in enumerate(self._layers):
            layer.gradient_checkpointing = at < count


def kept_bytes(forward: Callable[[], torch.Tensor], model: torch.nn.Module) -> float:
    """Bytes that a forward pass keeps for its backward pass, without the weights themselves."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # with its history a result would hold itself

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    total = float(sum(size for at, size in kept.items() if at not in own))
    del output
    return total
