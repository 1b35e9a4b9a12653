"""Linear layers with weights prepacked for oneDNN: rounded to bfloat16 and laid out once, not for every token."""

import copy
from functools import cache
from typing import Any, cast

import torch
from torch import nn

ROWS = 16
"""Number of input rows that the layout is optimised for; other numbers are not slower."""


class Prepacked(nn.Module):
    """A linear layer that computes in bfloat16 from a matrix [outputs, inputs] in oneDNN's layout."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), ROWS)
        self._bias = None if bias is None else bias.detach().bfloat16()
        self.weight = weight  # models read its shape and dtype

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the product, in bfloat16."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs.bfloat16(), self._packed, self._bias, "none", [], ""
        )
        return result


def prepacked(model: nn.Module) -> nn.Module:
    """Return a copy of a model with prepacked bfloat16 linear layers; it shares all other weights with the model.

    The copy is valid until the weights change. Without support for prepacking, this returns the model itself.
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
    """Test whether this torch can prepack: the operators belong to its compiler and are not a public interface."""
    if not cast(Any, torch.backends.mkldnn).is_available():
        return False
    with torch.no_grad():
        weight, inputs = torch.linspace(-1, 1, 48).view(6, 8), torch.linspace(0, 1, 16).view(2, 8)
        try:
            product = Prepacked(weight, None)(inputs)
        except (AttributeError, RuntimeError, TypeError, NotImplementedError):
            return False
        expected = nn.functional.linear(inputs.bfloat16(), weight.bfloat16())
    return bool(torch.allclose(product.float(), expected.float(), atol=0.05))
