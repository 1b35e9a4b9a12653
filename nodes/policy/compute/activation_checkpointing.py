"""Activation checkpointing (arXiv 1604.06174) of as many layers of a transformers model as a limit of memory asks."""

import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

GB = 1e9


class Recompute:
    """Which layers of a model keep only their input, and compute the rest again in the backward pass.

    `limit` is what a micro-batch may keep, in bytes: with 0 all layers compute again, always, with infinity none does.
    Gradients are the same to the bit. A model without such layers keeps everything. What costs more to compute again
    than to keep, a layer has `once`.
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
            enable({"use_reentrant": False, "context_fn": _passes})
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


class _Pass:
    """A pass through what is computed again: the first one has `results`, another takes them over in their order."""

    def __init__(self, results: list[torch.Tensor], *, first: bool) -> None:
        self._results, self._first = results, first

    def __enter__(self) -> None:
        self._token, self._at = _PASS.set(self), 0

    def __exit__(self, *error: object) -> None:
        _PASS.reset(self._token)

    def result(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What is computed, by the first pass."""
        if self._first:
            found = compute()
            self._results.append(found.detach())  # with its history a result would hold itself
            return found
        self._at += 1
        return self._results[self._at - 1]


_PASS: ContextVar[_Pass | None] = ContextVar("pass", default=None)


def _passes() -> tuple[_Pass, _Pass]:
    results: list[torch.Tensor] = []
    return _Pass(results, first=True), _Pass(results, first=False)


def once(compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What a function without gradients computes; a layer that computes again has kept it."""
    current = _PASS.get()
    return compute() if current is None else current.result(compute)


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


def recomputed_layers(tokens: int, *, layers: int, hidden: int, saved_token: float, limit: float) -> int:
    """How many layers are to keep only their input and what attention found, for the backward pass to compute the rest.

    They are as few as keep the activations of so many tokens within `limit` bytes, or all. `saved_token` is what all
    layers keep of a token otherwise; while one computes again, it holds what it did not keep.
    """
    each, inputs = saved_token * tokens / max(layers, 1), 8.0 * hidden * tokens  # both float32
    if layers * each <= limit:
        return 0
    if each <= inputs:
        return layers
    return min(layers, math.ceil(((layers + 1) * each - limit) / (each - inputs)))
