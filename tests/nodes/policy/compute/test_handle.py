import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal, gpt2, policy_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.errors import NodeFailed, StoreError
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import TinyLM

SEQUENCES = [
    TokenSequence(np.array([10, 11], np.int32), np.array([12, 13, 1], np.int32)),
    TokenSequence(np.array([20], np.int32), np.array([21], np.int32)),
]
ONES = np.ones(2, np.float32)


def fresh(**params: Any) -> CausalPolicy:
    return causal(TinyLM(**params).init("policy", seed=0))


def train(policy: CausalPolicy, steps: int = 1, learning_rate: float = 1e-3) -> float:
    for _ in range(steps):
        policy.backward(-policy.logprobs(SEQUENCES, temperatures=ONES).sum())
        norm = policy.step(learning_rate=learning_rate, max_grad_norm=1.0)
    return norm


def likelihood(policy: CausalPolicy) -> float:
    with torch.no_grad():
        return float(policy.logprobs(SEQUENCES, temperatures=ONES).sum())


def test_steps_raise_the_likelihood_and_the_version() -> None:
    policy = fresh()
    before = likelihood(policy)
    train(policy, 5)
    assert likelihood(policy) > before + 1
    assert policy.version == 5


def test_step_equals_adamw_on_clipped_gradients_and_returns_the_norm_before() -> None:
    policy, other = fresh(weight_decay=0.1), fresh()
    norm = train(policy)
    other.backward(-other.logprobs(SEQUENCES, temperatures=ONES).sum())
    parameters = dict(other.model.named_parameters())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    assert gradients.keys() == parameters.keys()
    total = float(torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt())
    assert norm == pytest.approx(total, rel=1e-4)
    assert norm > 1.0
    name = "model.layers.0.mlp.up_proj.weight"
    expected, gradient = parameters[name].detach().clone(), gradients[name] / (total + 1e-6)
    expected -= 1e-3 * (0.1 * expected + gradient / (gradient.abs() + 1e-8))  # Adam's first step is the sign
    torch.testing.assert_close(dict(policy.model.named_parameters())[name].detach(), expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("positions", [16, 64])
@pytest.mark.parametrize("share", [False, True])
def test_a_model_trains_that_has_positions_for_its_context_only(positions: int, share: bool) -> None:
    policy = policy_of(partial(gpt2, positions), share=share, context=positions, activation_bytes=1e4)
    before = likelihood(policy)
    train(policy)
    assert likelihood(policy) > before


def test_micro_batches_add_up_to_the_batch() -> None:
    whole, parts = fresh(), fresh()
    first = train(whole)
    for sequence in SEQUENCES:
        parts.backward(-parts.logprobs([sequence], temperatures=ONES[:1]).sum())
    assert parts.step(learning_rate=1e-3, max_grad_norm=1.0) == pytest.approx(first, rel=1e-4)
    assert likelihood(parts) == pytest.approx(likelihood(whole), abs=1e-3)


def test_gradients_are_freed_after_a_step() -> None:
    policy = fresh()
    train(policy)
    assert all(p.grad is None for p in policy.model.parameters())


def test_a_norm_that_is_not_finite_applies_nothing() -> None:
    policy = fresh()
    before = policy.digest()
    policy.backward(policy.logprobs(SEQUENCES, temperatures=ONES).sum() * float("inf"))
    with pytest.raises(NodeFailed, match=r"policy 'policy' version 0: the gradient norm is (nan|inf)"):
        policy.step(learning_rate=1e-3, max_grad_norm=1.0)
    assert policy.digest() == before
    assert policy.version == 0
    assert np.isfinite(train(policy))


def test_a_step_without_gradients_is_refused() -> None:
    with pytest.raises(NodeFailed, match="without gradients"):
        fresh().step(learning_rate=1e-3, max_grad_norm=1.0)


def test_what_is_loaded_is_what_was_saved_and_trains_on_bit_exactly(tmp_path: Path) -> None:
    policy, copy = fresh(), causal(TinyLM().init("copy", seed=9))
    train(policy, 3)
    policy.save(tmp_path)
    copy.load(tmp_path)
    assert copy.digest() == policy.digest()
    assert (copy.name, copy.version) == ("copy", 3)
    train(policy, 2)
    train(copy, 2)
    assert copy.digest() == policy.digest()


def test_a_policy_saved_before_its_first_step_loads(tmp_path: Path) -> None:
    policy = fresh()
    policy.save(tmp_path)
    trained = fresh()
    train(trained)
    trained.load(tmp_path)
    assert trained.version == 0
    assert trained.digest() == policy.digest()
    assert train(trained) == train(policy)
    assert trained.digest() == policy.digest()


def test_what_is_saved_holds_no_pickle_and_is_a_model_of_transformers(tmp_path: Path) -> None:
    policy = fresh()
    train(policy)
    policy.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".safetensors", ".json", ".jinja"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], parameter)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


def test_loading_another_model_or_a_broken_folder_is_refused(tmp_path: Path) -> None:
    fresh(hidden_size=32).save(tmp_path)
    with pytest.raises(StoreError, match=r"weight 'lm_head.weight' is \[\d+, 32\], this policy has"):
        fresh().load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(StoreError, match="holds no readable policy"):
        fresh(hidden_size=32).load(tmp_path)
    (tmp_path / "policy.json").write_text(json.dumps({"format": 99, "version": 0, "optimizer": False}))
    with pytest.raises(StoreError):
        fresh(hidden_size=32).load(tmp_path)
    with pytest.raises(StoreError, match="holds no readable policy"):
        fresh().load(tmp_path / "nowhere")


def test_a_fork_is_equal_and_then_goes_its_own_way() -> None:
    policy = fresh()
    train(policy, 2)
    fork = policy.fork("fork")
    assert (fork.name, fork.version, fork.digest()) == ("fork", 2, policy.digest())
    before = policy.digest()
    train(fork)
    assert policy.digest() == before
    train(policy)
    assert fork.digest() == policy.digest()  # the optimiser state came along


def test_the_digest_sees_one_bit() -> None:
    policy = fresh()
    before = policy.digest()
    with torch.no_grad():
        next(iter(policy.model.parameters())).view(-1)[7] += 1e-7
    assert policy.digest() != before


def test_no_dropout_and_no_state_in_judging() -> None:
    policy = fresh()
    assert likelihood(policy) == likelihood(policy)
    assert not policy.model.training


def test_a_trainer_of_its_own_tells_the_steps_that_it_took() -> None:
    policy, other = fresh(), fresh()
    train(policy)
    other.backward(-other.logprobs(SEQUENCES, temperatures=ONES).sum())
    torch.nn.utils.clip_grad_norm_(other.model.parameters(), 1.0)
    other.optimizer().param_groups[0]["lr"] = other.optimizer().param_groups[1]["lr"] = 1e-3
    other.optimizer().step()
    other.stepped(1)
    assert (other.version, other.pristine, other.digest()) == (1, False, policy.digest())
    assert all(p.grad is None for p in other.model.parameters())
    assert other.hf_tokenizer.decode(other.render([{"role": "user", "content": "hi"}])) == "hi"


def test_a_frozen_policy_has_no_optimiser_and_weights_alone_can_be_loaded(tmp_path: Path) -> None:
    policy = fresh()
    train(policy, 2)
    policy.save(tmp_path)
    frozen = fresh()
    frozen.load_weights(tmp_path)
    assert (frozen.version, frozen.digest()) == (2, policy.digest())
    likelihood(frozen)
    assert all(p.grad is None for p in frozen.model.parameters())
    frozen.save(tmp_path)
    assert json.loads((tmp_path / "policy.json").read_text())["optimizer"] is False


def test_weights_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"model\.safetensors: cannot write weights"):
        fresh().save(tmp_path / "nowhere")
