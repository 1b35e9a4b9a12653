"""Training of one set of weights with AdamW: gradients, optimiser steps, and loading weights and optimiser state."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from genrl_graph.contract.policy import Policy, TextPolicy
from genrl_graph.errors import NodeFailed, StoreError
from genrl_graph.nodes.policy.compute.bfloat16_adamw import MASTER, Bfloat16AdamW, widen_gradients
from genrl_graph.nodes.policy.compute.critic import Critic
from genrl_graph.nodes.policy.compute.shards import whole
from genrl_graph.nodes.policy.compute.weights import (
    CRITIC,
    PREFIX,
    cast_weights,
    copied_values,
    load_state,
    named_tensors,
    optimizer_tensors,
    replace_values,
    restore_optimizer,
    save_weights,
    weights_digest,
)

FACTOR = "factor"
"""Key of an optimiser's parameter group: its learning rate as a multiple of that of the step."""


@dataclass(frozen=True, slots=True)
class Training:
    """Training settings: AdamW (arXiv 1711.05101) with decay on matrices only, precision, and memory limits."""

    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    bfloat16: bool = False  # computes in bfloat16: by autocast, or because the weights are
    activation_bytes: float = math.inf  # memory for a micro-batch's activations; 0: recompute as much as possible
    share_prefixes: bool = False  # compute a prefix that several rows share only once
    param_dtype: torch.dtype = torch.float32  # of the weights that forward and backward passes read
    master_weights: bool = True  # of bfloat16 weights: the optimiser has float32 ones; else it rounds stochastically


def clip_gradients(policy: Policy, weights: Iterable[torch.nn.Parameter], max_grad_norm: float) -> float:
    """Scale the gradients of weights down to a norm of at most `max_grad_norm`; return the norm before.

    Raises `NodeFailed` if the norm is not finite, with the gradients removed, or if there are no gradients.
    """
    parameters = [p for p in weights if p.grad is not None]
    if not parameters:
        raise NodeFailed(f"policy {policy.name!r}: a step without gradients; call backward first")
    norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)))
    if not np.isfinite(norm):
        for parameter in parameters:
            parameter.grad = None
        where = f"policy {policy.name!r} version {policy.version}"
        raise NodeFailed(f"{where}: the gradient norm is {norm}; nothing was applied")
    return norm


def take_step(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Take one optimiser step with this learning rate, times the factor of a group that has one."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(FACTOR, 1.0)
    optimizer.step()


class TrainablePolicy(TextPolicy):
    """A text policy over a torch model that AdamW trains; subclasses sample from it and compute log-probs.

    Its weights are those that it acts with: what is saved, digested and exported. Float32 masters of bfloat16 weights
    belong to the optimiser. Gradients are allocated by the first backward pass, the optimiser state by the first step.
    A `critic` is trained, saved and digested with the model.
    """

    def __init__(self, name: str, model: torch.nn.Module, training: Training) -> None:
        self.name, self.version = name, 0
        self.model = cast_weights(model, training.param_dtype).eval()
        self.critic: Critic | None = None
        widen_gradients(self.model)
        self.pristine = True  # whether the weights are still the initial ones
        self.changes = 0  # how often the weights have changed
        self._training = training
        self._optimizer: torch.optim.AdamW | None = None

    @property
    def has_critic(self) -> bool:
        """True if the policy has a critic."""
        return self.critic is not None

    def set_critic(self, critic: Critic | None) -> None:
        """Set or remove the critic."""
        self.critic = critic
        if critic is not None:
            widen_gradients(critic)

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(self.model.parameters()).device

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of one micro-batch."""
        cast(Any, loss).backward()

    def step(self, *, learning_rate: float, max_grad_norm: float) -> float:
        """Take one AdamW step with gradients clipped to `max_grad_norm`; returns the norm before clipping.

        Raises `NodeFailed`, with the weights unchanged, if the norm is not finite or there are no gradients.
        """
        weights = (*self.model.parameters(), *(self.critic.parameters() if self.critic is not None else ()))
        norm = clip_gradients(self, weights, max_grad_norm)
        take_step(self.optimizer(), learning_rate)
        self.stepped(1)
        return norm

    def optimizer(self) -> torch.optim.AdamW:
        """Return the AdamW optimiser, created on first use; call `stepped` after stepping it."""
        if self._optimizer is None:
            self._optimizer = self._new_optimizer()
        return self._optimizer

    def stepped(self, steps: int) -> None:
        """Count optimiser steps that were applied to the weights, and free their gradients."""
        self._zero_grad()
        self.version += steps
        self.changes += steps
        self.pristine = self.pristine and steps == 0

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the language model by name: the ones that are saved, digested and exported."""
        return named_tensors(self.model)

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that the optimiser steps by name, those of the critic last."""
        return self._trained_model() | (self.critic.trained() if self.critic is not None else {})

    def exact(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters by name; where the optimiser has masters of them, those."""
        state = {} if self._optimizer is None else self._optimizer.state
        return {name: state.get(weight, {}).get(MASTER, weight) for name, weight in self.trained().items()}

    def trained_values(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the trained parameters, or of their masters, by name."""
        return copied_values(self.exact())

    def replace_trained(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Replace the trained parameters and increase `version` by 1; the moments of the optimiser stay."""
        exact = self.exact()
        replace_values(exact, values)
        with torch.no_grad():
            for name, weight in self.trained().items():
                weight.copy_(exact[name])
        self.stepped(1)

    def load(self, folder: Path) -> None:
        """Load weights, version and optimiser state; raises `StoreError` if they are another model's."""
        self._restore(folder, optimizer=True)

    def load_weights(self, folder: Path) -> None:
        """Load weights and version, without the optimiser state; raises `StoreError` like `load`."""
        self._restore(folder, optimizer=False)

    def digest(self) -> str:
        """Return a hex digest of the weights, with those of the critic."""
        return weights_digest(self.weights() | {PREFIX + name: value for name, value in self._critic_weights().items()})

    def _critic_weights(self) -> dict[str, torch.Tensor]:
        return self.critic.own_weights() if self.critic is not None else {}

    def _save_critic(self, folder: Path) -> None:
        """Write the critic beside the language model, if there is one."""
        if self.critic is not None:
            save_weights(folder / CRITIC, self._critic_weights())

    def _trained_model(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters of the language model that the optimiser steps, by name."""
        return dict(self.model.named_parameters())

    def _zero_grad(self) -> None:
        self.model.zero_grad(set_to_none=True)
        if self.critic is not None:
            self.critic.zero_grad(set_to_none=True)

    def _read(self, folder: Path, *, optimizer: bool) -> tuple[int, dict[str, torch.Tensor] | None]:
        return load_state(folder, self.weights(), critic=self._critic_weights(), optimizer=optimizer)

    def _restore(self, folder: Path, *, optimizer: bool) -> None:
        version, moments = self._read(folder, optimizer=optimizer)
        self._zero_grad()
        self.version, self.pristine, self._optimizer = version, False, None
        self.changes += 1
        if moments is not None:
            try:
                restore_optimizer(self.trained(), self.optimizer(), moments)
            except KeyError as error:
                raise StoreError(f"{folder}: optimiser state of an unknown parameter {error}") from error

    def _moments(self) -> dict[str, torch.Tensor] | None:
        return None if self._optimizer is None else optimizer_tensors(self.trained(), self._optimizer)

    def _new_optimizer(self) -> torch.optim.AdamW:
        groups = self._groups(self._trained_model().values())
        if self.critic is not None:
            factor = self.critic.params.learning_rate_factor
            groups += [{**group, FACTOR: factor} for group in self._groups(self.critic.trained().values())]
        groups, betas = [group for group in groups if group["params"]], self._training.betas
        if self._training.param_dtype == torch.float32:
            return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)
        names = {weight: name for name, weight in self.trained().items()}
        return Bfloat16AdamW(groups, betas=betas, names=names, masters=self._training.master_weights)

    def _groups(self, weights: Collection[torch.nn.Parameter]) -> list[dict[str, Any]]:
        """Return parameter groups of the optimiser: matrices, which decay, and the rest."""
        return [
            {"params": [p for p in weights if p.ndim >= 2], "weight_decay": self._training.weight_decay},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ]
