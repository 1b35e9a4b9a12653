"""Ranks that share a policy compute what one process computes: losses, gradients, weights, samples, checkpoints."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_server import EngineServer
from ranks import start, wait
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SCRIPT = str(Path(__file__).with_name("train_ranks.py"))
WEIGHTS = {False: "model.safetensors", True: "adapter_model.safetensors"}
STEPS = 3
HALVES = {"compute_dtype": "bfloat16", "param_dtype": "bfloat16"}
LIMIT_S = 1200.0

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3 * LIMIT_S)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of a random Llama of three layers whose sizes no number of ranks divides."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=95,
        hidden_size=36,
        intermediate_size=50,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"<{id}>": id for id in range(95)}, unk_token="<2>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<0>", eos_token="<1>", unk_token="<2>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    return str(folder)


def compared(alone: Path, shared: Path, file: str) -> float:
    """Return the largest difference between the tensors of two files, relative to the largest number of a tensor.

    Masters are left out: they are weights, not moments.
    """
    here, there = load_file(alone / file), load_file(shared / file)
    assert here.keys() == there.keys()
    gaps = []
    for name, tensor in here.items():
        assert tensor.shape == there[name].shape and tensor.dtype == there[name].dtype, name
        if name.endswith("|master"):
            continue
        gaps.append(float((tensor - there[name]).abs().max() / tensor.abs().max().clamp(min=1e-12)))
    return max(gaps)


def cases_of(model: str = "", checkpoint: Path = Path(), url: str = "") -> dict[str, dict[str, Any]]:
    """Return the cases by name; `double` goes on from a checkpoint after its steps, `engine` is sampled at a URL."""
    params = {"model": model, "gradient_checkpointing": False, "share_prefixes": False}
    base = {"params": params, "rows": 9, "max_batch_tokens": 80}
    return {
        "double": {**base, "double": True, "loads": str(checkpoint)},
        "single": base,
        "clipped": {**base, "double": True, "max_grad_norm": 0.01},
        # in float32: ranks pack other rows together than one process does, so attention adds up in another order
        "packed": {**base, "params": {**params, "share_prefixes": True, "gradient_checkpointing": True}},
        "adaptive": {**base, "params": {**params, "gradient_checkpointing": "auto", "activation_gb": 1e-4}},
        "critic": {**base, "params": {**params, "critic": {"head": True}}},
        "lora": {**base, "lora": True, "params": {**params, "r": 4, "target_modules": "all-linear"}},
        "bfloat16": {**base, "params": {**params, "compute_dtype": "bfloat16"}},
        "masters": {**base, "params": {**params, **HALVES, "critic": {"head": True}}},
        "rounded": {**base, "params": {**params, **HALVES, "master_weights": False}},
        "engine": {**base, "params": {**params, "engine": {"kind": "vllm", "urls": [url], "dtype": "float32"}}},
        "one_row": {**base, "double": True, "rows": 1},
    }


@dataclass(frozen=True)
class Played:
    """Results of some ranks: the facts of each case, and the folder of its files."""

    facts: dict[str, dict[str, Any]]
    folder: Path


@pytest.fixture(scope="module")
def played(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Played]:
    """Results of 1, 2 and 4 ranks; all go on from the checkpoint of two."""
    folder = tmp_path_factory.mktemp("played")
    with EngineServer(Path(model)) as server:
        cases = cases_of(model, folder / "2/double/last", server.url)
        (ended,) = wait([start([SCRIPT, json.dumps(cases), str(folder)])], LIMIT_S)
    assert ended.code == 0, ended.text
    return {size: Played(_facts(folder / str(size), cases), folder / str(size)) for size in (1, 2, 4)}


def _facts(folder: Path, cases: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {name: json.loads((folder / name / "facts.json").read_text()) for name in cases}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", cases_of())
def test_ranks_train_what_one_process_trains(played: dict[int, Played], size: int, name: str) -> None:
    """Unequal shares, a rank without rows, clipping, packed rows, recompute, a critic, an adapter, an engine."""
    case, alone, shared = cases_of()[name], played[1], played[size]
    exact, rounded = case.get("double"), case["params"].get("compute_dtype") == "bfloat16"
    close = 1e-9 if exact else 1e-2 if rounded else 1e-5
    here, there = (np.asarray(each.facts[name]["measured"]) for each in (alone, shared))
    loss, norm = (float(gap) for gap in np.abs(there / here - 1).max(0))
    folders = alone.folder / name, shared.folder / name
    gradient = compared(*folders, "first/optimizer.safetensors")
    weights = compared(*folders, f"last/{WEIGHTS[case.get('lora', False)]}")
    print(f"{size} ranks, {name}: loss {loss:.1e}, norm {norm:.1e}, gradient {gradient:.1e}, weights {weights:.1e}")
    assert max(loss, norm, gradient) < close
    # Adam divides a gradient by its own size, so where one is hardly more than its rounding, weights differ by more
    assert weights < (close if exact else 10 * close)
    assert alone.facts[name]["texts"] == shared.facts[name]["texts"] or rounded
    assert shared.facts[name]["version"] == STEPS
    files = [sorted(path.name for path in (folder / "last").iterdir()) for folder in folders]
    assert files[0] == files[1]


def test_a_checkpoint_of_two_ranks_is_resumed_by_one_and_by_four(played: dict[int, Played]) -> None:
    two, one, four = (played[size].facts["double"] for size in (2, 1, 4))
    for count, facts in ((1, one), (2, two), (4, four)):
        resumed, expected = facts["loaded"], two["loaded"]["next"]
        assert (resumed["version"], resumed["digest"]) == (STEPS, two["digest"])
        assert resumed["halved"] == two["loaded"]["halved"] != two["digest"]
        assert resumed["next"] == pytest.approx(expected, rel=1e-9)
        loss, norm = (abs(ours / theirs - 1) for ours, theirs in zip(resumed["next"], expected, strict=True))
        print(f"resumed by {count}: the next loss differs by {loss:.1e}, the norm of the gradient by {norm:.1e}")
