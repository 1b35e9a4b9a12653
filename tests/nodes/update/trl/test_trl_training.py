"""TRL's trainers change a live policy and nothing else of the process."""

import os
import random
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal
from fixture_types import Sample
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph import Log, NodeFailed, ParamError, Rollouts
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.update.dpo import Dpo
from genrl_graph.nodes.update.sft import Sft
from genrl_graph.nodes.update.trl.trl_training import StepBatches

NODES = [
    pytest.param(Sft(learning_rate=1e-2, batch_size=5, epochs=2), id="sft"),
    pytest.param(Dpo(learning_rate=1e-2, batch_size=5, pairs="all"), id="dpo"),
]


def train(node: Sft | Dpo, policy: CausalPolicy, *inputs: Rollouts, seed: int = 0) -> Log:
    log = Log()
    assert node.run(policy, list(inputs), rng=np.random.default_rng(seed), log=log, peer="peer0000") is policy
    return log


def numpy_state() -> list[int]:
    """Return the state of numpy's global generator."""
    return np.random.get_state(legacy=False)["state"]["key"].tolist()


def trained_as(policy: CausalPolicy, training: Training) -> CausalPolicy:
    """Return a copy of a policy, to be trained in another way."""
    tokens = ChatTokens(policy.hf_tokenizer, where="test")
    model = policy.fork("policy").model
    return CausalPolicy("policy", model, tokens, context=policy.context_length, training=training)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    batch_size=st.integers(1, 20),
    max_batch_tokens=st.integers(1, 200),
)
def test_an_epoch_is_every_row_once_in_steps_that_fit(
    lengths: list[int], batch_size: int, max_batch_tokens: int
) -> None:
    batches = StepBatches(
        lengths, batch_size=batch_size, max_batch_tokens=max_batch_tokens, rng=np.random.default_rng(0)
    )
    micros = list(batches)
    assert len(micros) == len(batches)
    assert sorted(at for micro in micros for at in micro) == list(range(len(lengths)))
    assert all(len(m) == 1 or len(m) * max(lengths[at] for at in m) <= max_batch_tokens for m in micros)
    # a trainer counts `accumulation` micro-batches a step, and what is left in the last
    steps = [micros[at : at + batches.accumulation] for at in range(0, len(micros), batches.accumulation)]
    sizes = [sum(map(len, step)) for step in steps]
    assert len(sizes) == ceil(len(lengths) / min(batch_size, len(lengths)))
    assert all(size == min(batch_size, len(lengths)) for size in sizes[:-1])


@pytest.mark.parametrize("node", NODES)
def test_equal_seeds_give_equal_bits_and_others_another_order(
    policy: CausalPolicy, sample: Sample, node: Sft | Dpo
) -> None:
    rows, same, other = sample(policy), policy.fork("policy"), policy.fork("policy")
    train(node, policy, rows)
    train(node, same, rows)
    train(node, other, rows, seed=1)
    assert policy.digest() == same.digest() != other.digest()


@pytest.mark.parametrize("node", NODES)
def test_nothing_is_left_behind_and_nothing_is_said(
    policy: CausalPolicy,
    sample: Sample,
    node: Sft | Dpo,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accelerate.state import PartialState

    rows, before = sample(policy), policy.fork("policy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)  # under CI trl says nothing of itself
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **said: pytest.fail(f"told a server {said}"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = dict(os.environ)
    states, torch_state = (random.getstate(), numpy_state()), torch.get_rng_state()
    train(node, policy, rows)

    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == environment
    assert (random.getstate(), numpy_state()) == states
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert PartialState._shared_state == {}
    assert policy.digest() != before.digest()
    model: Any = policy.model
    untouched: Any = before.model
    assert vars(model).keys() == vars(untouched).keys()  # no patched forward
    assert model.config.to_dict() == untouched.config.to_dict()
    assert model.generation_config.to_dict() == untouched.generation_config.to_dict()
    assert not any(module.training or module._forward_hooks for module in policy.model.modules())
    assert all(p.grad is None and p.dtype == torch.float32 for p in policy.model.parameters())


def test_the_tokenizer_keeps_its_padding(policy: CausalPolicy, sample: Sample) -> None:
    rows = sample(policy)
    policy.hf_tokenizer.pad_token = None
    train(Dpo(), policy, rows)
    assert policy.hf_tokenizer.pad_token is None


@pytest.mark.parametrize("node", NODES)
def test_the_optimiser_is_the_policys_and_is_saved_with_it(
    policy: CausalPolicy, sample: Sample, node: Sft | Dpo, tmp_path: Path
) -> None:
    first, second = sample(policy, seed=1), sample(policy, seed=2)
    steps = train(node, policy, first).metrics["optimiser_steps"]
    assert policy.version == steps
    policy.save(tmp_path)
    other = causal(TinyLM(hidden_size=32, layers=1, initializer_range=0.2).init("policy", seed=7))
    other.load(tmp_path)
    train(node, policy, second)
    train(node, other, second)
    assert other.digest() == policy.digest()
    assert all(float(state["step"]) == policy.version for state in policy.optimizer().state.values())


@pytest.mark.parametrize("node", NODES)
def test_a_gradient_that_is_not_finite_is_not_applied(policy: CausalPolicy, sample: Sample, node: Sft | Dpo) -> None:
    rows = sample(policy)
    model: Any = policy.model
    with torch.no_grad():
        model.lm_head.weight[0] = torch.inf
    before = policy.digest()
    with pytest.raises(NodeFailed, match=r"policy 'policy' version 0: the gradient norm is nan; this step was not"):
        train(node, policy, rows)
    assert (policy.digest(), policy.version) == (before, 0)
    assert "forward" not in vars(policy.model)
    assert not policy.model.training
    assert all(p.grad is None for p in policy.model.parameters())


@pytest.mark.parametrize("node", NODES)
def test_recomputed_activations_give_the_same_bits(policy: CausalPolicy, sample: Sample, node: Sft | Dpo) -> None:
    rows = sample(policy)
    recomputed = trained_as(policy, Training(activation_bytes=0.0))
    train(node, policy, rows)
    train(node, recomputed, rows)
    assert recomputed.digest() == policy.digest()
    assert any(getattr(module, "gradient_checkpointing", False) for module in recomputed.model.modules())


@pytest.mark.parametrize("node", NODES)
def test_a_policy_that_computes_in_bfloat16_trains_float32_weights_so(
    policy: CausalPolicy, sample: Sample, node: Sft | Dpo
) -> None:
    rows, start = sample(policy), policy.fork("policy")
    rounded = trained_as(policy, Training(bfloat16=True))
    whole, coarse = train(node, policy, rows).metrics["loss"], train(node, rounded, rows).metrics["loss"]
    assert coarse == pytest.approx(whole, rel=0.05)
    assert rounded.digest() not in (policy.digest(), start.digest())
    assert all(p.dtype == torch.float32 for p in rounded.model.parameters())


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("masters", [True, False])
def test_bfloat16_weights_are_trained_with_a_float32_optimiser(
    policy: CausalPolicy, sample: Sample, node: Sft | Dpo, masters: bool
) -> None:
    rows = sample(policy)
    halves = trained_as(policy, Training(bfloat16=True, param_dtype=torch.bfloat16, master_weights=masters))
    whole, coarse = train(node, policy, rows), train(node, halves, rows)
    for name in ("loss", "grad_norm"):
        assert coarse.metrics[name] == pytest.approx(whole.metrics[name], rel=0.1)
    assert all(p.dtype == torch.bfloat16 for p in halves.model.parameters())
    state = [tensor for each in halves.optimizer().state.values() for tensor in each.values()]
    assert {tensor.dtype for tensor in state} == {torch.float32}
    assert len(state) == (4 if masters else 3) * len(halves.trained())


@pytest.mark.parametrize("node", NODES)
def test_of_a_policy_on_a_shared_base_only_the_adapter_moves(sample: Sample, node: Sft | Dpo, tmp_path: Path) -> None:
    TinyLM(hidden_size=32, layers=1, initializer_range=0.2).init("base", seed=0).save(tmp_path)
    carry = Lora(model=str(tmp_path), r=4, device="cpu", compute_dtype="float32")
    policy, neighbour = causal(carry.init("policy", seed=0)), carry.init("neighbour", seed=0)
    names = [name for name, _ in policy.model.named_parameters()]
    base = {n: p.clone() for n, p in policy.model.named_parameters() if ".lora_" not in n}
    rows, before, beside = sample(policy), policy.digest(), neighbour.digest()
    train(node, policy, rows)
    assert policy.digest() != before
    assert neighbour.digest() == beside
    assert [name for name, _ in policy.model.named_parameters()] == names
    assert all(torch.equal(p, base[n]) for n, p in policy.model.named_parameters() if n in base)


def test_rows_that_cannot_be_trained_on_are_left_out_and_counted(policy: CausalPolicy, sample: Sample) -> None:
    stranger = TinyLM(alphabet="0123456789+=?", hidden_size=32, layers=1).init("policy", seed=0)
    rows = sample(policy).rows()
    rows[0] |= {"finish_reason": "failed", "error": "no"}
    rows[1] |= {"completion_ids": [], "completion_mask": [], "logprobs": []}
    rows[2] |= {"completion_mask": [0] * len(rows[2]["completion_ids"])}
    rows[3] |= {"reward": float("nan")}
    given = Rollouts.from_rows([{name: row[name] for name in Rollouts.columns} for row in rows])
    log = train(Sft(), policy, given, Rollouts.concat([sample(stranger, questions=1), given.take([])]))
    assert log.metrics["left_out_rows"] == 3 + 4
    assert log.metrics["rows_of_another_tokenizer"] == 4
    assert set(log.tables["trained"]["id"]) == set(given.values("id")[3:])
    assert log.metrics["trained_rows"] == len(rows) - 3

    scored = sample(policy)
    marked = type(scored).from_rows(rows, marks=scored.marks)
    assert train(Dpo(), policy, marked).metrics["left_out_rows"] == 4


@pytest.mark.parametrize("node", [Sft(mask_truncated=True), Dpo(mask_truncated=True)])
def test_truncated_rows_can_be_left_out(policy: CausalPolicy, sample: Sample, node: Sft | Dpo) -> None:
    scored = sample(policy)
    rows = scored.rows()
    for at, row in enumerate(rows):
        row["finish_reason"] = "stop" if at % 2 else "length"
    log = train(node, policy, type(scored).from_rows(rows, marks=scored.marks))
    assert log.metrics["truncated_rows"] == log.metrics["left_out_rows"] == len(rows) / 2
    trained = {id for name, ids in log.tables["trained"].items() if name.endswith("id") for id in ids}
    assert trained <= set(scored.values("id")[1::2])


def test_nothing_to_train_on_leaves_the_policy_alone(policy: CausalPolicy, sample: Sample) -> None:
    before, none = policy.digest(), sample(policy).take([])
    for node in (Sft(), Dpo()):
        log = train(node, policy, none)
        assert log.metrics["optimiser_steps"] == log.metrics["trained_rows"] == 0
    assert (policy.version, policy.digest()) == (0, before)


def test_the_learning_rate_follows_the_version(policy: CausalPolicy, sample: Sample) -> None:
    node = Sft(learning_rate=1e-2, warmup_steps=2, decay="linear", decay_steps=4)
    rates = [train(node, policy, sample(policy, seed=at)).metrics["learning_rate"] for at in range(4)]
    assert rates == pytest.approx([0.5e-2, 1e-2, 1e-2, 0.75e-2])
    assert policy.optimizer().param_groups[0]["lr"] == pytest.approx(0.5e-2)  # of the next step


@pytest.mark.parametrize(
    ("node", "params", "message"),
    [
        (Sft, {"decay": "cosine"}, "needs decay_steps"),
        (Sft, {"batch_size": 0}, "greater than or equal to 1"),
        (Sft, {"loss_type": "mse"}, "loss_type"),
        (Dpo, {"loss_type": "aot"}, "loss_type"),
        (Dpo, {"loss_type": "exo_pair"}, "needs label_smoothing > 0"),
        (Dpo, {"label_smoothing": 0.1}, "has no effect on 'sigmoid'; it serves robust, exo_pair"),
        (Dpo, {"loss_type": "robust", "label_smoothing": 0.5}, "less than 0.5"),
        (Dpo, {"beta": 0}, "greater than 0"),
    ],
)
def test_wrong_params_are_found_without_torch(node: type[Sft | Dpo], params: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        node(**params)
