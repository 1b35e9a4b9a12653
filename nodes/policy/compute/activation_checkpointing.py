"""Activation checkpointing (arXiv 1604.06174) of as few layers of a transformers model as a memory limit requires."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

GB = 1e9


class ActivationCheckpointing:
    """Chooses the layers that keep only their input and recompute their activations in the backward pass.

    `limit` is the memory for the activations of a micro-batch, in bytes: with 0 all layers always recompute, with
    infinity none does. Gradients are bit-identical either way. Models that do not support it keep all activations.
    Layers keep results that are expensive to recompute through `compute_once`.
    """

    def __init__(self, model: torch.nn.Module, limit: float) -> None:
        self._model: Any = model
        self._limit = limit
        supported = getattr(model, "supports_gradient_checkpointing", False)
        layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        self._layers = layers if supported and 0 < limit < math.inf else []
        if limit == 0:
            self._layers = layers if supported else []
        if self._layers:
            older = "gradient_checkpointing_enable"  # its name before transformers renamed it
            enable = getattr(model, "activation_checkpointing_enable", None) or getattr(model, older)
            enable({"use_reentrant": False, "context_fn": _passes})
        self._checkpoint_first(len(self._layers) if limit == 0 else 0)

    @property
    def possible(self) -> bool:
        """True if the model has layers that can recompute."""
        return bool(self._layers)

    @property
    def adaptive(self) -> bool:
        """True if the choice of layers depends on the micro-batch, so that `fit` must be called for each."""
        return bool(self._layers) and self._limit > 0

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Let the chosen layers recompute in a forward pass inside this context.

        transformers recomputes a layer in training mode only. This sets the mode of the layer itself, not of the
        modules inside it: what they do in training, such as dropout or the jitter of a router, would be noise.
        """
        chosen = [layer for layer in self._layers if layer.gradient_checkpointing]
        for layer in chosen:
            layer.training = True
        try:
            yield
        finally:
            for layer in chosen:
                layer.training = False

    def fit(self, tokens: int, saved_token: float) -> None:
        """Choose the layers for a micro-batch of `tokens` tokens; all layers keep `saved_token` bytes per token."""
        count, hidden = len(self._layers), int(self._model.config.get_text_config().hidden_size)
        self._checkpoint_first(
            recomputed_layers(tokens, layers=count, hidden=hidden, saved_token=saved_token, limit=self._limit)
        )

    def _checkpoint_first(self, count: int) -> None:
        for index, layer in enumerate(self._layers):
            layer.gradient_checkpointing = index < count


class _CheckpointPass:
    """A pass through a checkpointed layer: the first one records results, the recomputation reuses them in order."""

    def __init__(self, results: list[torch.Tensor], *, first: bool) -> None:
        self._results, self._first = results, first

    def __enter__(self) -> None:
        self._token, self._next = _CURRENT.set(self), 0

    def __exit__(self, *error: object) -> None:
        _CURRENT.reset(self._token)

    def result(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Compute and record a result in the first pass, return the recorded one in the recomputation."""
        if self._first:
            result = compute()
            self._results.append(result.detach())  # with its autograd history the list would keep itself alive
            return result
        self._next += 1
        return self._results[self._next - 1]


_CURRENT: ContextVar[_CheckpointPass | None] = ContextVar("pass", default=None)


def _passes() -> tuple[_CheckpointPass, _CheckpointPass]:
    results: list[torch.Tensor] = []
    return _CheckpointPass(results, first=True), _CheckpointPass(results, first=False)


def compute_once(compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return the result of a function without gradients; a recomputing layer reuses that of its first pass."""
    current = _CURRENT.get()
    return compute() if current is None else current.result(compute)


def kept_bytes(forward: Callable[[], torch.Tensor], model: torch.nn.Module) -> float:
    """Measure the bytes that a forward pass saves for its backward pass, without the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # with its autograd history an output would keep itself alive

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    total = float(sum(size for pointer, size in saved.items() if pointer not in parameters))
    del output
    return total


def recomputed_layers(tokens: int, *, layers: int, hidden: int, saved_token: float, limit: float) -> int:
    """Return the smallest number of layers to recompute so that activations fit in `limit` bytes, or all layers.

    A recomputed layer keeps only its input and its attention output. `saved_token` is the bytes per token that all
    layers together keep without recomputation. While one layer recomputes, it needs its whole share once more.
    """
    per_layer, inputs = saved_token * tokens / max(layers, 1), 8.0 * hidden * tokens  # input and attention, float32
    if layers * per_layer <= limit:
        return 0
    if per_layer <= inputs:
        return layers
    return min(layers, math.ceil(((layers + 1) * per_layer - limit) / (per_layer - inputs)))
