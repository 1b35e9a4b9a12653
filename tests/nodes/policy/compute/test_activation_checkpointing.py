"""Activation checkpointing: it recomputes as few layers as the limit requires, and gradients are bit-identical."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from architectures import gpt2, llama, policy_of, rows_of
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from genrl_graph.nodes.policy.compute import tiled_attention
from genrl_graph.nodes.policy.compute.activation_checkpointing import kept_bytes
from genrl_graph.nodes.policy.compute.handle import CausalPolicy


def gradients(policy: CausalPolicy) -> list[torch.Tensor]:
    rows = rows_of()
    policy.backward(policy.logprobs(rows, temperatures=np.ones(len(rows), np.float32)).square().sum())
    return [parameter.grad for parameter in policy.model.parameters() if parameter.grad is not None]


def recomputes(policy: CausalPolicy) -> list[bool]:
    """Return for each layer whether it recomputes its activations."""
    layers = [layer for layer in policy.model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    return [layer.gradient_checkpointing for layer in layers]


def kept_in_forward(policy: CausalPolicy) -> float:
    rows = rows_of()
    return kept_bytes(lambda: policy.logprobs(rows, temperatures=np.ones(len(rows), np.float32)), policy.model)


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("make", [llama, gpt2])
def test_gradients_are_the_same_to_the_bit(make: Callable[[], PreTrainedModel], share: bool, bfloat16: bool) -> None:
    whole = gradients(policy_of(make, share=share, bfloat16=bfloat16))
    for limit in (5e5, 3e5, 0.0):
        lean = policy_of(make, share=share, bfloat16=bfloat16, activation_bytes=limit)
        assert all(torch.equal(mine, other) for mine, other in zip(gradients(lean), whole, strict=True))
        assert any(recomputes(lean))
        assert not lean.model.training


def test_a_lower_limit_keeps_fewer_bytes() -> None:
    limits = (math.inf, 1e6, 5e5, 0.0)
    sizes = [kept_in_forward(policy_of(share=True, activation_bytes=limit)) for limit in limits]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.5 * sizes[0]


def test_a_small_micro_batch_keeps_everything() -> None:
    policy = policy_of(share=True, activation_bytes=1e9)
    gradients(policy)
    assert not any(recomputes(policy))


def test_a_copy_has_the_same_limit() -> None:
    policy = policy_of(share=True, activation_bytes=5e5)
    gradients(policy)
    twin = policy.fork("twin")
    gradients(twin)
    assert recomputes(twin) == recomputes(policy)
    assert any(recomputes(twin))


def test_attention_is_not_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed, whole = [], tiled_attention._output

    def counted(*args: Any) -> torch.Tensor:
        computed.append(1)
        return whole(*args)

    monkeypatch.setattr(tiled_attention, "_output", counted)
    policy = policy_of(share=True, activation_bytes=0.0)
    layers = len(recomputes(policy))
    policy.logprobs(rows_of(), temperatures=np.ones(13, np.float32))  # the first call probes the model
    computed.clear()
    gradients(policy)
    assert len(computed) == layers
