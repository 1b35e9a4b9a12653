"""Sampled and trained log-probs are those of plain transformers, for every architecture, or the model is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from causal_architectures import ARCHITECTURES, REFUSED, save_tiny
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from genrl_graph.contract.policy import Sampling, TokenSequence
from genrl_graph.errors import DataError
from genrl_graph.long_work import telling
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.onednn_linear import prepacked

TOLERANCE = 1e-4
QUICK = ["phi3 LongRoPE", "llama dynamic NTK", "mixtral jitter", "qwen3_next", "falcon_mamba", "deepseek_v3"]


def load(folder: Path, *, gradient_checkpointing: bool = False) -> CausalPolicy:
    declared = CausalLM(
        model=str(folder), device="cpu", compute_dtype="float32", gradient_checkpointing=gradient_checkpointing
    )
    policy = declared.init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    return policy


def sampled(policy: CausalPolicy) -> tuple[list[TokenSequence], list[np.ndarray]]:
    """Sample rows of several lengths, some with a common beginning; they grow past windows and ropes of 16 and 24."""
    rng = np.random.default_rng(0)
    start, other, long = (rng.integers(3, 100, length).astype(np.int32) for length in (18, 7, 33))
    prompts = [other, start, np.concatenate([start, other[:4]]), long]
    made = policy.generate(
        prompts, num_generations=2, sampling=Sampling(12), rng=np.random.default_rng(1), max_batch_tokens=4096
    )
    rows = [
        (TokenSequence(prompt, c.ids), c.logprobs) for prompt, group in zip(prompts, made, strict=True) for c in group
    ]
    return [row for row, _ in rows], [logprobs for _, logprobs in rows]


def plain(folder: Path, row: TokenSequence) -> np.ndarray:
    """Return the log-probs of a completion in a call of a freshly loaded model with the row alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.from_numpy(np.concatenate([row.prompt_ids, row.completion_ids]).astype(np.int64))[None]
    with torch.no_grad():
        logprobs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    start = len(row.prompt_ids)
    return logprobs[start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0].numpy()


def assert_computes_in_bfloat16(policy: CausalPolicy, row: TokenSequence) -> None:
    """The copy of the model from which a CPU samples in bfloat16 computes what the model itself does there."""
    ids = torch.from_numpy(np.concatenate([row.prompt_ids, row.completion_ids]).astype(np.int64))[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mine, other = (m(input_ids=ids, use_cache=False).logits for m in (prepacked(policy.model), policy.model))
    gaps = (mine.float().log_softmax(-1) - other.float().log_softmax(-1)).abs()
    assert float(gaps.median()) < 0.1  # experts that change by rounding change some rows by more


def assert_exact(folder: Path) -> None:
    policy = load(folder)
    rows, logprobs = sampled(policy)
    expected = [plain(folder, row) for row in rows]
    for mine, other in zip(logprobs, expected, strict=True):
        assert np.abs(mine - other).max() <= TOLERANCE
    for trained in (policy, load(folder, gradient_checkpointing=True)):
        values = trained.logprobs(rows, temperatures=np.ones(len(rows), np.float32))
        trained.backward(values.sum())
        for value, other in zip(values.detach().numpy(), expected, strict=True):
            assert np.abs(value[: len(other)] - other).max() <= TOLERANCE
    assert_computes_in_bfloat16(policy, rows[0])


@pytest.mark.parametrize("name", QUICK)
def test_log_probs_are_those_of_plain_transformers(name: str, tmp_path: Path) -> None:
    kind, settings = ARCHITECTURES[name]
    assert_exact(save_tiny(tmp_path, kind, **settings))


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in QUICK])
def test_log_probs_of_every_architecture_are_those_of_plain_transformers(name: str, tmp_path: Path) -> None:
    kind, settings = ARCHITECTURES[name]
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        pytest.skip(f"this transformers has no {kind}")
    assert_exact(save_tiny(tmp_path, kind, **settings))


@pytest.mark.long
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_fails_in_plain_transformers_too(kind: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, kind)
    with pytest.raises(DataError, match="cannot be played: tokens see later ones"):
        load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, 90, (1, 12)))
    other = ids.clone()
    other[0, -1] = 95
    with torch.no_grad():
        gap = model(input_ids=ids).logits.log_softmax(-1) - model(input_ids=other).logits.log_softmax(-1)
    assert float(gap[0, :-1].abs().max()) > TOLERANCE


def test_the_survey_has_at_least_48_architectures() -> None:
    assert len({kind for kind, _ in ARCHITECTURES.values()} & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)) >= 48


def test_a_model_that_sees_later_tokens_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "bert", is_decoder=False)
    with pytest.raises(DataError, match="cannot be played: tokens see later ones") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_model_that_a_call_changes_for_good_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "big_bird", is_decoder=True, attention_type="block_sparse")
    with pytest.raises(DataError, match="cannot be played: a call replaces modules of the model"):
        load(folder)


def test_a_model_that_is_slower_to_play_is_told_once(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = save_tiny(tmp_path, "falcon_mamba")
    with telling(lines.append):
        first = load(folder)
        assert load(folder).reading == first.reading
    assert [line.partition(": ")[2] for line in lines] == ["samples prompts of one length at a time"]
