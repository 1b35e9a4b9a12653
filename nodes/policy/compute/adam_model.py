"""One torch model that Adam trains: gradients, optimiser steps, saving, loading and hashing (imports torch)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrl_graph import seeds
from genrl_graph.contract.policy import TrainedPolicy
from genrl_graph.errors import StoreError
from genrl_graph.nodes.policy.compute.trainable import clip_gradients, take_step
from genrl_graph.nodes.policy.compute.weights import (
    copied_values,
    load_state,
    named_tensors,
    optimizer_tensors,
    replace_values,
    restore_optimizer,
    save_state,
    weights_digest,
)


class AdamModel(TrainedPolicy):
    """A policy over one float32 model with Adam (arXiv 1412.6980), whose state exists from the first step on.

    With `base`, the digest of a frozen model that an adapter is on, only the adapter is saved.
    """

    adam_epsilon: ClassVar[float] = 1e-8

    def __init__(self, name: str, model: torch.nn.Module, *, base: str = "") -> None:
        self.name, self.version, self.model, self._base = name, 0, model, base
        self._optimizer: torch.optim.Adam | None = None
        self._device = next(model.parameters()).device

    @property
    def computes(self) -> str:
        """The precision of matrix products and the kind of device."""
        return f"float32 on {self._device.type}"

    def tensor(self, values: NDArray[np.generic]) -> Tensor:
        """Return an array as a tensor on the device of the weights."""
        return torch.as_tensor(values, device=self._device)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one batch."""
        cast(Any, loss).backward()

    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """Take one Adam step with gradients clipped to `max_grad_norm`; returns the norm before clipping.

        Raises `NodeFailed`, with the weights unchanged, if the norm is not finite or there are no gradients.
        """
        norm = clip_gradients(self, self._trained().values(), max_grad_norm)
        take_step(self._adam(), learning_rate)
        self.model.zero_grad(set_to_none=True)
        self.version += 1
        return norm

    def trained_values(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the trained parameters by name."""
        return copied_values(self._trained())

    def replace_trained(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Replace the trained parameters and increase `version` by 1; the state of the optimiser stays."""
        replace_values(self._trained(), values)
        self.version += 1

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state and version."""
        save_state(folder, self._weights(), self._moments(), version=self.version, base=self._base)

    def load(self, folder: Path) -> None:
        """Load weights, version and optimiser state; raises `StoreError` if they are another network's."""
        self.version, moments = load_state(folder, self._weights(), base=self._base)
        self._optimizer = None
        if moments is not None:
            self._restore(moments, str(folder))

    def fork(self, name: str) -> Self:
        """Return an independent copy with its own weights and optimiser state."""
        other, moments = self.frozen(name), self._moments()
        if moments is not None:
            other._restore(moments, f"policy {self.name!r}")
        return other

    def digest(self) -> str:
        """Return a hex digest of the weights, and of the base of an adapter."""
        own = weights_digest(self._weights())
        return seeds.digest((self._base, own)) if self._base else own

    def _weights(self) -> dict[str, Tensor]:
        """Return what is saved: all weights, or those of the adapter."""
        return dict(sorted(self._trained().items())) if self._base else named_tensors(self.model)

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def _adam(self) -> torch.optim.Adam:
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self._trained().values(), lr=0.0, eps=self.adam_epsilon, fused=True)
        return self._optimizer

    def _moments(self) -> dict[str, Tensor] | None:
        return None if self._optimizer is None else optimizer_tensors(self._trained(), self._optimizer)

    def _restore(self, moments: dict[str, Tensor], where: str) -> None:
        try:
            restore_optimizer(self._trained(), self._adam(), moments)
        except KeyError as error:
            raise StoreError(
                f"{where}: optimiser state of an unknown weight {error}; was it another network?"
            ) from error
