"""Linear layers with weights prepacked for oneDNN: rounded to bfloat16 and laid out once, not for every token."""

import copy
from functools import cache
from typing import Any, cast

import torch
from torch import nn

ROWS = 16
"""Number of input rows that the layout is optimised for; other numbers are not slower."""


class Prepacked(nn.Linear):
    """A linear layer that computes in bfloat16 from a matrix [outputs, inputs] in oneDNN's layout.

    It has the weight, bias and sizes of the layer that it replaces: Mamba and others compute with them directly.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)  # that of `nn.Linear` would allocate weights
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().bfloat16(), ROWS)
        self._packed_bias = None if layer.bias is None else layer.bias.detach().bfloat16()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the product, in bfloat16."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs.bfloat16(), self._packed, self._packed_bias, "none", [], ""
        )
        return result


def prepacked(model: nn.Module) -> nn.Module:
    """Return a copy of a model with prepacked bfloat16 linear layers; it shares all other weights with the model.

    The copy is valid until the weights change. Without support for prepacking, this returns the model itself.
    """
    if not can_prepack():
        return model
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    kept = (value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor))
    # recurrent models keep the state of their last call, which only a call without gradients leaves as it can be copied
    shared |= {id(value): value.detach() for value in kept if value.grad_fn is not None}
    for layer in model.modules():
        if type(layer) is nn.Linear:
            shared[id(layer)] = Prepacked(layer)
    return copy.deepcopy(model, shared)


@cache
def can_prepack() -> bool:
    """Test whether this torch can prepack: the operators belong to its compiler and are not a public interface."""
    if not cast(Any, torch.backends.mkldnn).is_available():
        return False
    with torch.no_grad():
        layer, inputs = nn.Linear(8, 6, bias=False, device="meta"), torch.linspace(0, 1, 16).view(2, 8)
        layer.weight = nn.Parameter(torch.linspace(-1, 1, 48).view(6, 8))
        try:
            product = Prepacked(layer)(inputs)
        except (AttributeError, RuntimeError, TypeError, NotImplementedError):
            return False
        expected = nn.functional.linear(inputs.bfloat16(), layer.weight.bfloat16())
    return bool(torch.allclose(product.float(), expected.float(), atol=0.05))
