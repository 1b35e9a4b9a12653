"""Steps of bfloat16 weights against plain torch: float32 masters, stochastic rounding, sums of gradients."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal
from safetensors.torch import load_file

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.nodes.policy.compute.bfloat16_adamw import stochastically_rounded
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM

RATE, BETAS, DECAY = 1e-3, (0.9, 0.99), 0.1
ROWS = torch.from_numpy(np.random.default_rng(0).integers(3, 60, (4, 3, 12)))  # micro-batches, rows, tokens
SEQUENCES = [TokenSequence(row[:6].astype(np.int32), row[6:].astype(np.int32)) for row in ROWS[0].numpy()]


def fresh(seed: int = 0, **params: Any) -> CausalPolicy:
    """Return a tiny policy with bfloat16 weights."""
    halves: dict[str, Any] = {"compute_dtype": "bfloat16", "param_dtype": "bfloat16", "initializer_range": 0.1}
    sizes: dict[str, Any] = {"hidden_size": 32, "heads": 2, "weight_decay": DECAY, "betas": BETAS}
    return causal(TinyLM(**sizes | halves | params).init("policy", seed=seed))


def loss_of(model: Any, rows: torch.Tensor) -> Any:
    """Return the loss of the next tokens, from a plain call of transformers."""
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def train(policy: CausalPolicy, steps: int = 3, rate: float = RATE) -> None:
    """Take steps of several micro-batches each."""
    for _ in range(steps):
        for rows in ROWS:
            policy.backward(loss_of(policy.model, rows))
        policy.step(learning_rate=rate, max_grad_norm=0.5)


def test_masters_take_the_steps_of_plain_adamw_on_float32_weights() -> None:
    policy = fresh()
    model = copy.deepcopy(policy.model)  # copies have no hooks of ours
    weights = list(model.parameters())
    masters = [torch.nn.Parameter(weight.detach().float()) for weight in weights]
    groups: list[dict[str, Any]] = [
        {"params": [master for master in masters if master.ndim >= 2], "weight_decay": DECAY},
        {"params": [master for master in masters if master.ndim < 2], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)
    for _ in range(3):
        for master in masters:
            master.grad = torch.zeros_like(master)
        for rows in ROWS:
            loss_of(model, rows).backward()
            for master, weight in zip(masters, weights, strict=True):
                assert master.grad is not None and weight.grad is not None and weight.grad.dtype == torch.bfloat16
                master.grad += weight.grad.float()
                weight.grad = None
        torch.nn.utils.clip_grad_norm_(masters, 0.5)
        plain.step()
        with torch.no_grad():
            for master, weight in zip(masters, weights, strict=True):
                weight.copy_(master)
    train(policy)
    names = [name for name, _ in policy.model.named_parameters()]
    for name, master, weight in zip(names, masters, weights, strict=True):
        torch.testing.assert_close(policy.exact()[name], master.detach(), rtol=1e-6, atol=1e-7)
        assert torch.equal(policy.trained()[name], weight), name
        assert torch.equal(policy.exact()[name].bfloat16(), weight)


def test_numbers_are_rounded_to_a_neighbour_with_themselves_as_the_mean() -> None:
    torch.manual_seed(0)
    count, exact = 4000, torch.cat([torch.randn(60), 1e-3 * torch.randn(60), torch.tensor([0.0, 1.0, -0.5, 2.0**-126])])
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([stochastically_rounded(exact, generator).double() for _ in range(count)])
    below = (exact.view(torch.int32) & -(1 << 16)).view(torch.float32).double()  # towards 0
    beyond = ((exact.view(torch.int32) & -(1 << 16)) + (1 << 16)).view(torch.float32).double()
    assert ((drawn == below) | (drawn == beyond)).all()
    share = ((exact.double() - below) / (beyond - below)).clamp(0, 1)
    error = (beyond - below).abs() * (share * (1 - share) / count).sqrt()
    gaps = (drawn.mean(0) - exact.double()).abs()
    assert (gaps[share == 0] == 0).all() and (share == 0).sum() == 4
    assert (gaps[share > 0] <= 5 * error[share > 0]).all()
    assert (gaps / error)[share > 0].square().mean() == pytest.approx(1.0, abs=0.5)  # as chance has it, and no less


def test_steps_below_the_spacing_of_bfloat16_move_weights_on_average() -> None:
    """The first step of Adam moves each weight by the rate against the sign of its gradient."""
    rate, moved = 1e-5, {}
    for masters in (True, False):
        policy = fresh(weight_decay=0.0, master_weights=masters)
        before = {name: weight.detach().double() for name, weight in policy.trained().items()}
        policy.backward(loss_of(policy.model, ROWS[0]))
        signs = {
            name: weight.grad.sign().double() for name, weight in policy.trained().items() if weight.grad is not None
        }
        policy.step(learning_rate=rate, max_grad_norm=1e9)
        moves = {name: (weight.double() - before[name]) * -signs[name] for name, weight in policy.exact().items()}
        moved[masters] = torch.cat([move[signs[name] != 0] for name, move in moves.items()]).detach()
    assert len(moved[True]) > 10_000
    assert moved[True].mean() == pytest.approx(rate, rel=0.01)
    error = float(moved[False].std()) / len(moved[False]) ** 0.5
    assert error < 0.1 * rate
    assert moved[False].mean() == pytest.approx(rate, abs=4 * error + 0.01 * rate)


def test_gradients_of_many_micro_batches_add_up_in_float32() -> None:
    policy, count, row = fresh(layers=1), 400, ROWS[0][:1]
    policy.backward(loss_of(policy.model, row))
    once = {name: weight.grad.clone() for name, weight in policy.trained().items() if weight.grad is not None}
    for _ in range(count - 1):
        policy.backward(loss_of(policy.model, row))
    for name, weight in policy.trained().items():
        assert weight.grad is not None and weight.grad.dtype == torch.float32
        torch.testing.assert_close(weight.grad, count * once[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masters", [True, False])
def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path, masters: bool) -> None:
    params: dict[str, Any] = {"master_weights": masters, "critic": {"head": True}}
    policy, other = fresh(**params), fresh(seed=1, **params)
    train_values(policy)
    policy.save(tmp_path)
    saved, moments = (load_file(tmp_path / f"{name}.safetensors") for name in ("model", "optimizer"))
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in moments.values()} == {torch.float32}
    kept = {"step", "exp_avg", "exp_avg_sq"} | ({"master"} if masters else set())
    assert {name.partition("|")[2] for name in moments} == kept
    assert {name for name in moments if name.endswith("|master")} == {f"{n}|master" for n in saved if masters}
    other.load(tmp_path)
    fork = policy.fork("fork")
    for each in (policy, other, fork):
        train_values(each)
    assert policy.digest() == other.digest() == fork.digest()
    for name, exact in policy.exact().items():
        assert torch.equal(exact, other.exact()[name]) and torch.equal(exact, fork.exact()[name])
    assert policy.frozen("frozen").exact().keys() <= policy.exact().keys()


def train_values(policy: CausalPolicy) -> None:
    """Take two steps that train the critic, too."""
    for _ in range(2):
        ones = np.ones(len(SEQUENCES), np.float32)
        logprobs, values = policy.logprobs_and_values(SEQUENCES, temperatures=ones)
        policy.backward(-logprobs.mean() + (values - 1).square().mean())
        policy.step(learning_rate=RATE, max_grad_norm=1.0)


def test_averages_read_and_replace_the_masters() -> None:
    policy = fresh()
    train(policy)
    values = policy.trained_values()
    assert any((array != torch.from_numpy(array).bfloat16().float().numpy()).any() for array in values.values())
    policy.replace_trained({name: array * np.float32(1.001) for name, array in values.items()})
    for name, array in policy.trained_values().items():
        assert np.array_equal(array, values[name] * np.float32(1.001))
        assert torch.equal(policy.trained()[name], torch.from_numpy(array).bfloat16())
