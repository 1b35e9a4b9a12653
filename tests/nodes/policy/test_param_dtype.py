"""Policies with bfloat16 weights: what contradicts itself, what they compute, learn, export and take."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from genrl_graph.contract.policy import TokenSequence
from genrl_graph.errors import ParamError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.loading.frozen import load_frozen
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.runners.estimate.models import size_policy
from genrl_graph.runners.export import export_policy
from genrl_graph.runners.play import play

HALVES: dict[str, Any] = {"compute_dtype": "bfloat16", "param_dtype": "bfloat16"}
TINY = TinyLM(hidden_size=16, heads=2, initializer_range=0.3, **HALVES)
SEQUENCES = [
    TokenSequence(np.arange(5, 40, dtype=np.int32), np.array([12, 13, 1], np.int32)),
    TokenSequence(np.array([20], np.int32), np.array([21, 22], np.int32)),
]
ONES = np.ones(2, np.float32)
TASKS = json.dumps([{"question": f"{digit}+1=", "answer": str((digit + 1) % 10)} for digit in range(10)])
GAME = """
graph: sums
version: 1
carry:
  policy:
    type: policy.tiny_lm
    params: {{alphabet: 0123456789+=, initializer_range: 0.1, hidden_size: 32, layers: 1, heads: 2,
      compute_dtype: bfloat16, param_dtype: bfloat16, master_weights: {masters}}}
    next: update
nodes:
  tasks: {{type: source.list, params: {{tasks: {tasks}, num_tasks: 10}}}}
  answer:
    type: generate.answer
    inputs: {{tasks: tasks, policy: policy}}
    params: {{template: "{{{{ task.question }}}}", num_generations: 8, max_new_tokens: 1}}
  score: {{type: reward.regex, inputs: {{rollouts: answer}}, params: {{pattern: '^(\\d)$', compare: true}}}}
  credit: {{type: advantage.group, inputs: {{scored: score}}}}
  update:
    type: update.grpo
    inputs: {{policy: policy, credited: [credit]}}
    params: {{learning_rate: 5e-3, max_batch_tokens: 256}}
run: {{trackers: [], checkpoint_every: 1, keep: null}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small float32 model in transformers' format; return its folder."""
    path = tmp_path_factory.mktemp("base")
    causal(TinyLM(hidden_size=16, heads=2, initializer_range=0.3).init("base", seed=0)).export(path)
    return path


def read(policy: CausalPolicy) -> torch.Tensor:
    with torch.no_grad():
        return policy.logprobs(SEQUENCES, temperatures=ONES)


def train(policy: CausalPolicy, steps: int = 2) -> None:
    for _ in range(steps):
        policy.backward(-policy.logprobs(SEQUENCES, temperatures=ONES).sum())
        policy.step(learning_rate=1e-2, max_grad_norm=1.0)


def test_params_that_contradict_each_other_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"param_dtype": "bfloat16", "compute_dtype": "float32"}, "set compute_dtype to bfloat16"),
        ({"master_weights": False}, "master_weights serves param_dtype: bfloat16"),
    ]
    for params, what in cases:
        for kind, model in ((TinyLM, {}), (CausalLM, {"model": "some/model"})):
            with pytest.raises(ParamError, match=what):
                kind(**model | params)
    assert CausalLM(model="some/model", param_dtype="bfloat16").compute_dtype == "auto"


@pytest.mark.parametrize("share", [True, False])
def test_log_probs_are_those_of_float32_but_for_rounding(folder: Path, share: bool) -> None:
    whole = causal(CausalLM(model=str(folder), compute_dtype="float32", share_prefixes=share).init("p", seed=0))
    half = causal(CausalLM(model=str(folder), param_dtype="bfloat16", share_prefixes=share).init("p", seed=0))
    assert half.computes.startswith("bfloat16 on ")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    frequencies = [buffer for name, buffer in half.model.named_buffers() if "inv_freq" in name]
    assert frequencies and all(buffer.dtype == torch.float32 for buffer in frequencies)
    assert (
        half.micro_batches(SEQUENCES, max_batch_tokens=64)[0].tolist()
        == whole.micro_batches(SEQUENCES, max_batch_tokens=64)[0].tolist()
    )  # prefixes are shared by both or neither
    gap = (read(half) - read(whole)).abs().max()
    assert half.logprobs(SEQUENCES, temperatures=ONES).dtype == torch.float32
    assert 0 < gap < 0.1
    train(half)
    assert read(half).sum() > read(whole).sum() + 1


def test_an_export_has_the_weights_that_act_in_the_precision_that_it_names(folder: Path, tmp_path: Path) -> None:
    policy = causal(CausalLM(model=str(folder), param_dtype="bfloat16").init("policy", seed=0))
    train(policy)
    policy.export(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    stored = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(stored[name], weight) for name, weight in policy.weights().items() if name in stored)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    ids = torch.from_numpy(SEQUENCES[0].prompt_ids.astype(np.int64))[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, policy.model(input_ids=ids).logits)


def test_an_adapter_has_a_bfloat16_base_and_is_merged_in_float32(folder: Path, tmp_path: Path) -> None:
    params: dict[str, Any] = {"model": str(folder), "r": 4, "param_dtype": "bfloat16"}
    policy, whole = (causal(Lora(**params | more).init("p", seed=0)) for more in ({}, {"param_dtype": "float32"}))
    assert {weight.dtype for weight in policy.model.parameters()} == {torch.bfloat16}
    assert policy.digest() != whole.digest()  # another base: their checkpoints do not mix
    train(policy)
    assert {tensor.dtype for name, tensor in policy.exact().items()} == {torch.float32}
    for name in ("merged", "alone"):
        (tmp_path / name).mkdir()
    policy.export(tmp_path / "merged")
    assert {tensor.dtype for tensor in load_file(tmp_path / "merged/model.safetensors").values()} == {torch.float32}
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == "float32"
    policy.export_adapter(tmp_path / "alone")  # type: ignore[attr-defined]
    stored = load_file(tmp_path / "alone/adapter_model.safetensors")
    assert all(torch.equal(stored[name], weight) for name, weight in policy.weights().items())
    assert {weight.dtype for weight in policy.model.parameters()} == {torch.bfloat16}


def test_a_frozen_copy_comes_back_from_its_folder_as_it_was(tmp_path: Path) -> None:
    policy = causal(TINY.init("policy", seed=0))
    train(policy)
    policy.frozen("frozen").save_frozen(tmp_path)
    again = causal(load_frozen(tmp_path))
    assert again.digest() == policy.digest() and torch.equal(read(again), read(policy))


@pytest.mark.parametrize("masters", [True, False])
@pytest.mark.parametrize("critic", [None, {"head": False}])
def test_the_memory_is_what_the_estimate_counts(masters: bool, critic: dict[str, bool] | None) -> None:
    carry = TinyLM(**TINY.model_dump() | {"master_weights": masters, "critic": critic})
    policy, sized = causal(carry.init("policy", seed=0)), size_policy(carry).model
    own = [*policy.model.parameters(), *(policy.critic.parameters() if policy.critic else [])]
    head = 2 * sum(weight.numel() for weight in own if weight.dtype == torch.float32)  # 2 bytes more each
    assert sum(weight.nbytes for weight in own) == sized.own_bytes + head
    if policy.critic:
        logprobs, values = policy.logprobs_and_values(SEQUENCES, temperatures=ONES)
        policy.backward(values.sum() - logprobs.sum())
    else:
        policy.backward(-policy.logprobs(SEQUENCES, temperatures=ONES).sum())
    assert sum(weight.grad.nbytes for weight in own if weight.grad is not None) == sized.gradient_bytes
    policy.step(learning_rate=1e-3, max_grad_norm=1.0)
    kept = sum(tensor.nbytes for state in policy.optimizer().state.values() for tensor in state.values() if tensor.ndim)
    assert kept == sized.moment_bytes - (2 * head if masters else 0)  # float32 weights need no masters
    assert (sized.cast_bytes, sized.weight_bytes, sized.master_bytes) == (0, 2, 4 if masters else 0)


@pytest.mark.parametrize("masters", ["true", "false"])
def test_a_game_learns_and_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path, masters: str) -> None:
    graph = read_document(parse_document(GAME.format(masters=masters, tasks=TASKS), file="sums.yaml")).graph
    play(graph, out=tmp_path / "run", rounds=30, quiet=True, threads=1)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rewards = [line["score/reward"] for line in lines]
    print(f"masters {masters}: {np.mean(rewards[:3]):.2f} to {np.mean(rewards[-3:]):.2f}")
    assert np.mean(rewards[-3:]) > 0.5 > 2 * np.mean(rewards[:3])
    play(graph, out=tmp_path / "cut", rounds=3, quiet=True, threads=1)
    play(graph, out=tmp_path / "cut", rounds=5, quiet=True, threads=1, resume=True)
    ends = [tmp_path / name / "checkpoints/000005/peer0000/policy" for name in ("run", "cut")]
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (ends[0] / file).read_bytes() == (ends[1] / file).read_bytes()
    export_policy(tmp_path / "run", "policy", tmp_path / "exported")
