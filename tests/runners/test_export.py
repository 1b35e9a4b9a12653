"""Exported policies: plain transformers loads them and computes the same logits as the run."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from architectures import causal
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrl_graph import Graph, PolicyCarry, RunConfig, play
from genrl_graph.errors import DataError, ParamError, StoreError
from genrl_graph.nodes.advantage.group import GroupAdvantage
from genrl_graph.nodes.generate.answer import Answer
from genrl_graph.nodes.policy.causal_lm import CausalLM
from genrl_graph.nodes.policy.checkpoint import Checkpoint
from genrl_graph.nodes.policy.lora import Lora
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.nodes.reward.regex import RegexReward
from genrl_graph.nodes.source.list import ListSource
from genrl_graph.nodes.update.grpo import Grpo
from genrl_graph.runners.export import export_policy
from genrl_graph.runners.play import Run

IDS = torch.tensor([[5, 6, 7, 8, 9]])
TINY = TinyLM(alphabet="0123456789+=", hidden_size=16, heads=2, initializer_range=0.3)
KINDS = ("tiny_lm", "causal_lm", "lora")


def game(carry: PolicyCarry) -> Graph:
    g = Graph("game", run=RunConfig(rounds=2))
    policy = g.carry("policy", carry)
    tasks = g.add("tasks", ListSource(tasks=[{"question": "1+1=", "answer": "2"}]))
    speaker = Answer(template="{{ task.question }}", num_generations=16, max_new_tokens=2)
    answer = g.add("answer", speaker, tasks=tasks, policy=policy)
    score = g.add("score", RegexReward(pattern=r"([0-4])"), rollouts=answer)
    credit = g.add("credit", GroupAdvantage(), scored=score)
    g.next_round(policy=g.add("update", Grpo(learning_rate=1e-2), policy=policy, credited=[credit]))
    return g


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run of two rounds with each type of policy."""
    folder = tmp_path_factory.mktemp("runs")
    base = folder / "base"
    base.mkdir()
    TINY.init("base", seed=0).export(base)  # type: ignore[attr-defined]
    carries = {
        "tiny_lm": TINY,
        "causal_lm": CausalLM(model=str(base), compute_dtype="float32"),
        "lora": Lora(model=str(base), compute_dtype="float32"),
    }
    return {kind: play(game(carry), out=folder / kind, quiet=True) for kind, carry in carries.items()}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_plain_transformers_gives_the_same_logits(runs: dict[str, Run], kind: str, tmp_path: Path) -> None:
    run = runs[kind]
    out = export_policy(run.folder, "policy", tmp_path / "out")
    policy = causal(Checkpoint(run=str(run.folder), device="cpu").init("policy", seed=0))
    assert policy.digest() == run.after["peer0000", "policy"] != run.before["peer0000", "policy"]
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(out)), logits(policy.model), rtol=1e-4, atol=1e-5
    )
    tokenizer, chat = AutoTokenizer.from_pretrained(out), [{"role": "user", "content": "1+2="}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids == policy.render(chat).tolist()
    assert not [file for file in out.iterdir() if file.stat().st_mode & 0o444 != 0o444]


def test_an_adapter_alone_is_one_of_peft(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["lora"]
    out = export_policy(run.folder, "policy", tmp_path / "out", adapter_only=True)
    policy = causal(Checkpoint(run=str(run.folder), device="cpu").init("policy", seed=0))
    base = AutoModelForCausalLM.from_pretrained(
        json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    )
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base, out)), logits(policy.model), rtol=1e-4, atol=1e-5)
    assert "AutoPeftModelForCausalLM" in (out / "README.md").read_text()
    with pytest.raises(ParamError, match="'policy' is no adapter; export it without adapter_only"):
        export_policy(runs["tiny_lm"].folder, "policy", tmp_path / "other", adapter_only=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing half-made is left


def test_the_card_tells_where_the_policy_comes_from(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["causal_lm"]
    card = (export_policy(run.folder, "policy", tmp_path / "out") / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["genrl-graph", "reinforcement-learning"],
    }
    metrics = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for line in (
        "| run | causal_lm |",
        "| trained from | base |",
        "| rounds trained | 2 |",
        "| peer | peer0000 |",
        "| version | 2 (optimiser steps) |",
        f"| digest | {run.after['peer0000', 'policy']} |",
        f"| score | {metrics[-1]['score/reward']:.4g} |",
    ):
        assert line in text
    assert str(tmp_path.parent) not in text  # no place of this machine


def test_a_taken_folder_and_a_policy_that_is_not_there_are_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    folder = runs["tiny_lm"].folder
    with pytest.raises(StoreError, match="exists already; name another folder"):
        export_policy(folder, "policy", tmp_path)
    with pytest.raises(StoreError, match=r"no policy named 'polic' \(did you mean 'policy'\?\)"):
        export_policy(folder, "polic", tmp_path / "out")
    with pytest.raises(StoreError, match="no checkpoint after round 1; there are 2"):
        export_policy(folder, "policy", tmp_path / "out", round=1)


def test_an_upload_that_fails_is_one_line_and_leaves_the_export(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"genrl-tests/none: cannot upload: .*; the export stays in .*out") as caught:
        export_policy(runs["tiny_lm"].folder, "policy", tmp_path / "out", push_to_hub="genrl-tests/none")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "out" / "config.json").exists()
