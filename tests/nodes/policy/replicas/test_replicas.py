"""Ranks that share a policy compute what one process computes: losses, gradients, weights, samples, checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import free_port, start, wait
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SCRIPT = str(Path(__file__).with_name("train_ranks.py"))
WEIGHTS = {False: "model.safetensors", True: "adapter_model.safetensors"}
STEPS = 3


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


def played(cases: dict[str, dict[str, Any]], size: int, out: Path) -> dict[str, dict[str, Any]]:
    """Train all cases in `size` processes and return their facts."""
    port, text = str(free_port()), json.dumps(cases)
    ranks = [start([SCRIPT, str(rank), str(size), port, text, str(out)]) for rank in range(size)]
    for ended in wait(ranks, 900):
        assert ended.code == 0, ended.text
    return {name: json.loads((out / name / "facts.json").read_text()) for name in cases}


def compared(alone: Path, shared: Path, file: str) -> float:
    """Return the largest difference between the tensors of two files, relative to the largest number of a tensor."""
    here, there = load_file(alone / file), load_file(shared / file)
    assert here.keys() == there.keys()
    gaps = []
    for name, tensor in here.items():
        assert tensor.shape == there[name].shape and tensor.dtype == there[name].dtype, name
        gaps.append(float((tensor - there[name]).abs().max() / tensor.abs().max().clamp(min=1e-12)))
    return max(gaps)


def cases_of(model: str) -> dict[str, dict[str, Any]]:
    params = {"model": model, "gradient_checkpointing": False, "share_prefixes": False}
    base = {"params": params, "rows": 9, "max_batch_tokens": 80}
    return {
        "double": {**base, "double": True},
        "single": base,
        "clipped": {**base, "double": True, "max_grad_norm": 0.01},
        "packed": {
            **base,
            "params": {**params, "share_prefixes": True, "gradient_checkpointing": True},
            "double": True,
        },
        "adaptive": {**base, "params": {**params, "gradient_checkpointing": "auto", "activation_gb": 1e-4}},
        "critic": {**base, "params": {**params, "critic": {"head": True}}},
        "lora": {**base, "lora": True, "params": {**params, "r": 4, "target_modules": "all-linear"}},
        "bfloat16": {**base, "params": {**params, "compute_dtype": "bfloat16"}},
        "one_row": {**base, "double": True, "rows": 1},
    }


@pytest.mark.soak
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_train_what_one_process_trains(model: str, size: int, tmp_path: Path) -> None:
    """Equal and unequal shares, a rank without rows, clipping, packed rows, recompute, a critic, an adapter."""
    cases = cases_of(model)
    alone, shared = played(cases, 1, tmp_path / "alone"), played(cases, size, tmp_path / "shared")
    for name, case in cases.items():
        here, there = np.asarray(alone[name]["measured"]), np.asarray(shared[name]["measured"])
        exact, rounded = case.get("double"), case["params"].get("compute_dtype") == "bfloat16"
        close = 1e-9 if exact else 1e-2 if rounded else 1e-5
        loss, norm = (float(gap) for gap in np.abs(there / here - 1).max(0))
        gradient = compared(tmp_path / "alone" / name, tmp_path / "shared" / name, "first/optimizer.safetensors")
        weights = compared(
            tmp_path / "alone" / name, tmp_path / "shared" / name, f"last/{WEIGHTS[case.get('lora', False)]}"
        )
        print(f"{size} ranks, {name}: loss {loss:.1e}, norm {norm:.1e}, gradient {gradient:.1e}, weights {weights:.1e}")
        assert max(loss, norm, gradient) < close, name
        assert weights < (1e-9 if exact else 0.1 if rounded else 1e-4), name
        assert alone[name]["texts"] == shared[name]["texts"] or rounded
        assert shared[name]["version"] == STEPS
        files = [sorted(path.name for path in (tmp_path / at / name / "last").iterdir()) for at in ("alone", "shared")]
        assert files[0] == files[1]


@pytest.mark.soak
def test_a_checkpoint_of_two_ranks_is_resumed_by_one_and_by_four(model: str, tmp_path: Path) -> None:
    case = {**cases_of(model)["double"], "loads": str(tmp_path / "two/double/last")}
    two = played({"double": {**case, "loads": str(tmp_path / "two/double/last")}}, 2, tmp_path / "two")["double"]
    one = played({"double": case}, 1, tmp_path / "one")["double"]
    four = played({"double": case}, 4, tmp_path / "four")["double"]
    for resumed in (one, four):
        assert resumed["loaded"][0] == STEPS
        assert resumed["loaded"][2] == two["digest"] == two["loaded"][2]
        assert resumed["loaded"][1] == pytest.approx(two["loaded"][1], rel=1e-12)
