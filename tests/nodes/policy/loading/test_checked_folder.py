"""A folder that is no whole causal language model is one line that says what it is, before anything is allocated."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from causal_architectures import save_tiny
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from genrl_graph.contract.policy import Sampling
from genrl_graph.errors import DataError
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("whole"), "llama")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def load(folder: Path) -> CausalPolicy:
    policy = CausalLM(model=str(folder), device="cpu").init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    return policy


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def configure(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def change_weights(folder: Path, **tensors: torch.Tensor | None) -> None:
    kept = load_file(folder / WEIGHTS) | tensors
    save_file({n: t for n, t in kept.items() if t is not None}, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "../model.safetensors", "/tmp/a.safetensors", "sub/a.safetensors"]
)
def test_an_index_names_plain_safetensors_of_its_folder_only(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": name}}))
    assert f"{INDEX} names {name!r}" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}))
    assert "model-00001-of-00002.safetensors is missing" in refusal(folder)


def test_a_configuration_names_no_weight_file(folder: Path) -> None:
    configure(folder, transformers_weights="other.safetensors")
    assert "transformers_weights" in refusal(folder)


@pytest.mark.parametrize(
    "claim",
    [
        {"num_hidden_layers": 10**7},
        {"vocab_size": 10**12},
        {"hidden_size": 1 << 20, "head_dim": 1 << 18},
        {"num_labels": 10**9},
        {"max_position_embeddings": 10**12},
        {"num_attention_heads": 10**6},
    ],
    ids=lambda claim: next(iter(claim)),
)
def test_a_configuration_claims_no_more_than_its_weights_hold(folder: Path, claim: dict[str, int]) -> None:
    configure(folder, **claim)
    assert "safetensors hold" in (line := refusal(folder)) or "the most that is allowed" in line


def test_pickled_weights_adapters_and_quantised_weights_are_named(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "quantised (bitsandbytes)" in refusal(folder)
    torch.save({}, folder / "pytorch_model.bin")
    configure(folder, quantization_config=None)
    (folder / WEIGHTS).unlink()
    assert "only pytorch_model.bin, and pickled files are not read" in refusal(folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    assert "an adapter of 'some/base', not a model" in refusal(folder)


def test_missing_and_unexpected_weights_are_named(folder: Path) -> None:
    change_weights(folder, **{"model.layers.0.mlp.up_proj.weight": None})
    assert "lacks weights that the model has: model.layers.0.mlp.up_proj.weight" in refusal(folder)
    change_weights(folder, **{"model.layers.0.mlp.up_proj.weight": torch.zeros(48, 32), "score.weight": torch.ones(1)})
    assert "has weights that the model does not have: score.weight" in refusal(folder)
    change_weights(folder, **{"score.weight": None, "model.norm.weight": torch.full((32,), torch.nan)})
    assert "model.norm.weight is not finite" in refusal(folder)


def test_a_tokenizer_knows_no_more_ids_than_the_embedding(folder: Path) -> None:
    tokenizer = load(folder).hf_tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    tokenizer.save_pretrained(folder)
    assert "the token '<think>' with id 100, but its embedding ends at 99" in refusal(folder)


def test_ids_that_the_tokenizer_does_not_know_are_never_sampled(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(164)
    model.save_pretrained(folder)
    policy, prompt = load(folder), np.array([5, 6, 7], np.int32)
    for temperature in (1.0, 0.0):
        rows = policy.generate(
            [prompt] * 16,
            num_generations=8,
            sampling=Sampling(8, temperature=temperature),
            rng=np.random.default_rng(0),
            max_batch_tokens=1 << 16,
        )
        assert max(int(row.ids.max()) for group in rows for row in group) < 100 < policy.vocab_size
