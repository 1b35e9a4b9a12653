"""The critic of a language model: values and gradients of plain calls, on padded and packed rows; saved, exported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal, gpt2, llama, policy_of, qwen, rows_of, windowed
from transformers import AutoModelForCausalLM, PreTrainedModel

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.errors import DataError, ParamError, StoreError
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.weights import CRITIC
from genrl_graph.nodes.policy.critic_params import CriticParams
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.tiny_lm import TinyLM

ROWS = rows_of()
ONES = np.ones(len(ROWS), np.float32)


def with_critic(policy: CausalPolicy, **params: Any) -> CausalPolicy:
    """Give a policy a critic whose values are of order 1; one of its own model then differs from the policy's."""
    policy.add_critic(CriticParams(**params), where="test")
    assert policy.critic is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        policy.critic.head.weight.normal_(std=0.1, generator=generator)
        policy.critic.head.bias.fill_(0.5)
        for weight in policy.critic.trunk.parameters() if policy.critic.trunk is not None else ():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return policy


def plain_values(policy: CausalPolicy, row: TokenSequence) -> torch.Tensor:
    """Return the values of one row from a plain call: before each token of the completion, and after the last."""
    critic = policy.critic
    assert critic is not None
    model: Any = policy.model if critic.trunk is None else critic.trunk
    ids = torch.from_numpy(np.concatenate([row.prompt_ids, row.completion_ids]).astype(np.int64))[None]
    hidden = model.base_model(input_ids=ids).last_hidden_state[0, len(row.prompt_ids) - 1 :]
    return hidden @ critic.head.weight[0] + critic.head.bias


def gradient(policy: CausalPolicy, loss: torch.Tensor) -> torch.Tensor:
    weights = list(policy.trained().values())
    parts = torch.autograd.grad(loss, weights, allow_unused=True)
    filled = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, parts, strict=True)]
    return torch.cat([part.flatten() for part in filled])


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("make", [llama, *(pytest.param(m, marks=pytest.mark.long) for m in (qwen, gpt2, windowed))])
def test_values_and_gradients_are_those_of_plain_calls(
    make: Callable[[], PreTrainedModel], share: bool, head: bool
) -> None:
    policy = with_critic(policy_of(make, share=share), head=head)
    values = policy.values(ROWS)
    expected = [plain_values(policy, row) for row in ROWS]
    assert values.dtype == torch.float32 and values.shape == (len(ROWS), max(map(len, expected)))
    for row, plain in zip(values, expected, strict=True):
        torch.testing.assert_close(row[: len(plain)], plain, rtol=1e-5, atol=1e-5)
        assert (row[len(plain) :] == 0).all()
    ours = gradient(policy, values.square().sum())
    theirs = gradient(policy, torch.cat(expected).square().sum())
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


@pytest.mark.parametrize("activation_bytes", [float("inf"), 0.0, pytest.param(200_000.0, marks=pytest.mark.long)])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("share", [True, False])
def test_one_pass_gives_the_logprobs_and_values_of_two(share: bool, head: bool, activation_bytes: float) -> None:
    policy = with_critic(policy_of(share=share, activation_bytes=activation_bytes), head=head)
    temperatures = np.linspace(0.5, 1.5, len(ROWS)).astype(np.float32)
    logprobs, values = policy.logprobs_and_values(ROWS, temperatures=temperatures)
    apart = policy.logprobs(ROWS, temperatures=temperatures), policy.values(ROWS)
    torch.testing.assert_close((logprobs, values), apart, rtol=1e-5, atol=1e-5)
    both = gradient(policy, logprobs.square().sum() + values.square().sum())
    sums = gradient(policy, apart[0].square().sum()) + gradient(policy, apart[1].square().sum())
    assert float((both - sums).norm() / sums.norm()) < 1e-4


def test_a_new_critic_says_0_and_detached_leaves_the_model_alone() -> None:
    fresh = policy_of(share=True)
    fresh.add_critic(CriticParams(), where="test")
    assert not fresh.values(ROWS).any()
    policy = with_critic(policy_of(share=True), detach=True)
    policy.backward(policy.values(ROWS).sum())
    assert all(weight.grad is None for weight in policy.model.parameters())
    assert policy.critic is not None and policy.critic.head.weight.grad is not None


def test_the_critics_learning_rate_is_a_multiple() -> None:
    policy = with_critic(policy_of(share=True), learning_rate_factor=10.0)
    assert policy.critic is not None
    before = policy.critic.head.weight.detach().clone()
    embedding = next(iter(policy.model.parameters())).detach().clone()
    policy.backward(policy.values(ROWS).square().sum())
    policy.step(learning_rate=1e-3, max_grad_norm=1e9)
    first = next(iter(policy.model.parameters())).detach()
    assert float((policy.critic.head.weight.detach() - before).abs().max()) == pytest.approx(1e-2, rel=1e-2)
    assert float((first - embedding).abs().max()) == pytest.approx(1e-3, rel=1e-2)


def test_under_bfloat16_values_are_near_those_in_float32() -> None:
    values = []
    for dtype in ("float32", "bfloat16"):
        params: dict[str, Any] = {"hidden_size": 32, "heads": 2, "initializer_range": 0.2, "compute_dtype": dtype}
        policy = with_critic(causal(TinyLM(**params).init("policy", seed=0)))
        with torch.no_grad():
            values.append(policy.values(ROWS))
    assert values[1].dtype == torch.float32
    assert 0 < float((values[0] - values[1]).abs().max()) < 0.05 * float(values[0].abs().max())


def test_detach_of_a_model_of_its_own_is_refused() -> None:
    with pytest.raises(ParamError, match=r"policy\.tiny_lm\.critic: detach serves head: true"):
        TinyLM(critic={"head": False, "detach": True})


def test_without_a_critic_values_say_what_to_set() -> None:
    with pytest.raises(ParamError, match=r"policy 'p' has no critic; give its carry params.critic: \{head: true\}"):
        policy_of(share=True).values(ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in transformers' format."""
    path = tmp_path_factory.mktemp("base")
    causal(TinyLM(hidden_size=16, heads=2, initializer_range=0.3).init("base", seed=0)).export(path)
    return path


SEQUENCES = [TokenSequence(np.array([10, 11], np.int32), np.array([12, 13, 1], np.int32))]


def trained(policy: CausalPolicy, steps: int = 2) -> CausalPolicy:
    for _ in range(steps):
        logprobs, values = policy.logprobs_and_values(SEQUENCES, temperatures=np.ones(1, np.float32))
        policy.backward(((values - 1.0) ** 2).sum() - logprobs.sum())
        policy.step(learning_rate=1e-2, max_grad_norm=1.0)
    return policy


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("kind", ["tiny_lm", "lora"])
def test_a_saved_or_forked_policy_goes_on_alike(kind: str, head: bool, folder: Path, tmp_path: Path) -> None:
    params: dict[str, Any] = {"critic": CriticParams(head=head)}

    def make() -> CausalPolicy:
        tiny = TinyLM(hidden_size=16, heads=2, layers=1, **params)
        adapted = Lora(model=str(folder), device="cpu", compute_dtype="float32", r=4, **params)
        return causal((tiny if kind == "tiny_lm" else adapted).init("policy", seed=0))

    policy = trained(make())
    policy.save(tmp_path)
    loaded, fork = make(), policy.fork("fork")
    loaded.load(tmp_path)
    assert policy.digest() == loaded.digest() == fork.digest()
    assert trained(loaded, 1).digest() == trained(fork, 1).digest() != policy.digest()
    assert trained(policy, 1).digest() == loaded.digest()
    critic = policy.critic
    assert critic is not None
    with torch.no_grad():
        critic.head.bias.add_(1.0)
    assert policy.digest() != loaded.digest(), "the digest covers the critic"
    assert policy.frozen("frozen").critic is None
    assert policy.frozen("frozen").digest() == loaded.frozen("frozen").digest()


def test_a_checkpoint_without_the_critic_is_refused(tmp_path: Path) -> None:
    TinyLM(layers=1).init("policy", seed=0).save(tmp_path)
    policy = causal(TinyLM(layers=1, critic=CriticParams()).init("policy", seed=0))
    with pytest.raises(StoreError, match=r"has no critic\.safetensors, but this policy has a critic"):
        policy.load(tmp_path)


def test_an_export_is_a_plain_model_with_the_critic_beside(tmp_path: Path) -> None:
    policy = trained(causal(TinyLM(hidden_size=16, heads=2, critic=CriticParams()).init("policy", seed=0)))
    policy.export(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[10, 11, 12, 13]])
    torch.testing.assert_close(model(input_ids=ids).logits, policy.model(input_ids=ids).logits)
    assert not [name for name in model.state_dict() if "critic" in name]
    assert (tmp_path / CRITIC).exists()


def test_a_model_without_hidden_states_to_read_is_refused() -> None:
    policy = policy_of(share=False)
    model: Any = policy.model
    model.get_output_embeddings = lambda: None
    with pytest.raises(DataError, match="here: this architecture has no hidden states that a critic could read"):
        policy.add_critic(CriticParams(), where="here")
