"""AdamW for bfloat16 weights, computed in float32: with float32 master weights, or with stochastic rounding."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from genrl_graph import seeds

MASTER = "master"
"""Key of a weight's float32 master among its optimiser state."""


class Bfloat16AdamW(torch.optim.AdamW):
    """AdamW (arXiv 1711.05101) that steps bfloat16 weights, with gradients and moments in float32.

    With `masters` the optimiser steps float32 masters, which start as the weights (arXiv 1710.03740), and the weights
    are the masters rounded to nearest. Without, a step of a weight is computed in float32 and rounded up or down by
    chance, such that the mean is exact (arXiv 1502.02551): steps that are smaller than half the spacing of bfloat16
    numbers would be lost otherwise. The random numbers depend on the weight's name, its step and the rank that holds
    it, so a resumed run draws the same ones. Weights that are float32, such as a critic's head, are stepped as they
    are.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        betas: tuple[float, float],
        names: Mapping[torch.nn.Parameter, str],
        masters: bool,
    ) -> None:
        super().__init__(groups, lr=0.0, betas=betas, fused=True)
        self._names, self._masters = names, masters

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Step each weight that has a gradient; in float32 there is one weight without a master at a time."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_weight(weight, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load groups and state, which keeps its precision: torch would round it to that of the weights."""
        super().load_state_dict(state_dict)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for at, state in state_dict["state"].items():
            self.state[weights[at]] = dict(state)

    def _step_weight(self, weight: torch.nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state |= {key: torch.zeros_like(weight, dtype=torch.float32) for key in ("exp_avg", "exp_avg_sq")}
        rounded = weight.dtype != torch.float32
        if rounded and self._masters and MASTER not in state:
            state[MASTER] = weight.detach().float()
        exact = state[MASTER] if rounded and self._masters else weight.detach().float()
        adamw(
            [_local(exact)],
            [_local(weight.grad)],
            [_local(state["exp_avg"])],
            [_local(state["exp_avg_sq"])],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        if rounded and not self._masters:
            rank = weight.device_mesh.get_local_rank() if isinstance(weight, DTensor) else 0
            seed = seeds.digest(("stochastic rounding", self._names[weight], int(state["step"]), rank), size=7)
            generator = torch.Generator(weight.device).manual_seed(int(seed, 16))
            _local(weight).copy_(stochastically_rounded(_local(exact), generator))
        elif rounded:
            weight.copy_(exact)


def stochastically_rounded(exact: Tensor, generator: torch.Generator) -> Tensor:
    """Round finite float32 numbers to one of the two bfloat16 numbers around them, with the number as the mean."""
    noise = torch.randint(1 << 16, exact.shape, generator=generator, dtype=torch.int32, device=exact.device)
    noise += exact.view(torch.int32)  # may carry into the upper half, which are the bits of the bfloat16 number
    noise &= -(1 << 16)
    return noise.view(torch.float32).bfloat16()


def widen_gradients(module: torch.nn.Module) -> None:
    """Let gradients of bfloat16 weights add up in float32 over the micro-batches of a step.

    Call it for new parameters: copies and shards of a module do not inherit it.
    """
    for weight in module.parameters():
        if weight.requires_grad and weight.dtype == torch.bfloat16:
            weight.grad_dtype = None  # any
            cast(Any, weight).register_post_accumulate_grad_hook(_widen)


def _widen(weight: Tensor) -> None:
    if weight.grad is not None and weight.grad.dtype != torch.float32:
        weight.grad = weight.grad.float()


def _local(tensor: Any) -> Tensor:
    """Return the part of this rank of a tensor that may be sharded, without a copy."""
    local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local
