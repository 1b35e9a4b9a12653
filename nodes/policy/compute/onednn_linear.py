"""Matrices as oneDNN multiplies them fastest: rounded to bfloat16 and laid out once, not for every token."""

import copy
from functools import cache
from typing import Any, cast

import torch
from torch import nn

ROWS = 16
"""Rows that the layout is asked for; it is not slower for others."""


class Prepacked(nn.Module):
    """A linear layer that reads bfloat16, whatever it is given, from a matrix [outputs, inputs] in oneDNN's layout."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), ROWS)
        self._bias = None if bias is None else bias.detach().bfloat16()
        self.weight = weight  # what others ask of a layer: its size and type

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """The product, in bfloat16."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            given.bfloat16(), self._packed, self._bias, "none", [], ""
        )
        return result


def prepacked(model: nn.Module) -> nn.Module:
    """A model that shares all weights with this one but computes linear layers from a layout of their own, in bfloat16.

    It is good until the weights change. Where oneDNN has no such layout it is the model itself.
    """
    if not can_prepack():
        return model
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for layer in model.modules():
        if type(layer) is nn.Linear:
            shared[id(layer)] = Prepacked(layer.weight, layer.bias)
    return copy.deepcopy(model, shared)


@cache
def can_prepack() -> bool:
    """Whether this torch can, tried out: its compiler uses these operators, but promises them to nobody else."""
    if not cast(Any, torch.backends.mkldnn).is_available():
        return False
    with torch.no_grad():
        weight, given = torch.linspace(-1, 1, 48).view(6, 8), torch.linspace(0, 1, 16).view(2, 8)
        try:
            found = Prepacked(weight, None)(given)
        except (AttributeError, RuntimeError, TypeError, NotImplementedError):
            return False
        wanted = nn.functional.linear(given.bfloat16(), weight.bfloat16())
    return bool(torch.allclose(found.float(), wanted.float(), atol=0.05))
