"""Shard a model over the ranks of a group with FSDP2, and make it whole again for as long as it samples."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from genrl_graph.nodes.policy.compute.bfloat16_adamw import widen_gradients
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.shards import whole

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Root(torch.nn.Module):
    """A policy's model and critic as one module, which calls what computes with them.

    Forward passes of parts of the model, such as of all but its output layer, are then forward passes of this module:
    its weights that belong to no layer are gathered once a pass.
    """

    def __init__(self, model: torch.nn.Module, critic: torch.nn.Module | None) -> None:
        super().__init__()
        self.model, self.critic = model, critic

    def forward(self, compute: Callable[[], Any]) -> Any:
        """Return the result of `compute`."""
        return compute()


class ShardedModel:
    """The model and critic of a policy, of whose trained weights each rank holds a part.

    Frozen weights, such as the base of an adapter, are whole on every rank.
    """

    def __init__(self, policy: CausalPolicy, mesh: "DeviceMesh") -> None:
        self._policy = policy
        self._stand_ins = {
            name: torch.nn.Parameter(weight.detach().new_empty(0))
            for name, weight in policy.model.named_parameters()
            if weight.requires_grad
        }
        self._whole = _copy_with(policy.model, self._stand_ins)
        self._root = Root(policy.model, policy.critic)
        frozen = {weight for weight in self._root.parameters() if not weight.requires_grad}
        layers = [module for module in self._root.modules() if isinstance(module, GradientCheckpointingLayer)]
        heads = [] if policy.critic is None else [policy.critic.head]  # float32: FSDP gathers weights of one dtype
        precision = MixedPrecisionPolicy(reduce_dtype=_sums_in(policy.model))
        for module in (*layers, *heads, self._root):
            fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=frozen, mp_policy=precision)
        for module in self._root.modules():
            if isinstance(module, FSDPModule):  # gradients of the ranks add up: each has other rows
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        widen_gradients(self._root)

    def forward(self, compute: Callable[[], Any]) -> Any:
        """Return the result of a forward pass, which all ranks make together."""
        return self._root(compute)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Give the policy a model with whole weights, for forward passes that the ranks make each on its own."""
        sharded, weights = self._policy.model, dict(self._policy.model.named_parameters())
        for name, stand_in in self._stand_ins.items():
            stand_in.data = whole(weights[name].detach())
        self._policy.model = self._whole
        try:
            yield
        finally:
            self._policy.model = sharded
            for stand_in in self._stand_ins.values():
                stand_in.data = stand_in.data.new_empty(0)


def _sums_in(model: torch.nn.Module) -> torch.dtype:
    """Return the precision in which gradients of ranks add up: that of the weights, at least float32."""
    return torch.promote_types(next(model.parameters()).dtype, torch.float32)


def _copy_with(model: torch.nn.Module, stand_ins: Mapping[str, torch.nn.Parameter]) -> torch.nn.Module:
    """Return a copy of a model with other parameters of these names; it shares those that have no stand-in."""
    shared = {id(weight): stand_ins.get(name, weight) for name, weight in model.named_parameters()}
    return copy.deepcopy(model, cast(dict[int, Any], shared))
