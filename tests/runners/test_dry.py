"""Dry play: every shipped graph in seconds, without a model or a hub, and errors before the real run."""

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, PreTrainedTokenizerFast

import genrl_graph.graphs
from genrl_graph import Graph, load
from genrl_graph.errors import ParamError, RewardFailed, TooManyFailed
from genrl_graph.nodes.library import Answer, CausalLM, FunctionReward, GroupAdvantage, Grpo, ListSource, RegexReward
from genrl_graph.runners.dry import dry_play
from genrl_graph.store.run_store import RunStore

GRAPHS = Path(next(iter(genrl_graph.graphs.__path__)))
SHIPPED = sorted(GRAPHS.rglob("*.yaml"))


@pytest.mark.long
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(GRAPHS).as_posix())
def test_every_shipped_graph_is_played_dry(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry_play(load(path))
    shown = capsys.readouterr().err
    assert "dry play of" in shown and ": ok (1 round" in shown


def model_game(
    template: str = "{{ task.question }}",
    pattern: str = "is",
    *,
    model: str = "nobody/has-this-model",
    max_prompt_tokens: int | None = None,
) -> Graph:
    graph = Graph("dry")
    policy = graph.carry("policy", CausalLM(model=model))
    tasks = graph.add("tasks", ListSource(tasks=[{"question": "How many?", "answer": "7"}]))
    node = Answer(template=template, num_generations=8, max_prompt_tokens=max_prompt_tokens)
    answer = graph.add("answer", node, tasks=tasks, policy=policy)
    score = graph.add("score", RegexReward(pattern=pattern), rollouts=answer)
    credit = graph.add("credit", GroupAdvantage(), scored=score)
    graph.next_round(policy=graph.add("update", Grpo(), policy=policy, credited=[credit]))
    return graph


def test_a_model_that_is_not_there_is_not_needed_and_the_prompt_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = dry_play(model_game("Dear all: {{ task.question }}"), out=tmp_path / "run")
    assert "Dear all: How many?" in capsys.readouterr().err
    assert run.before != run.after  # the update took its step
    with RunStore.open(tmp_path / "run") as store:
        assert store.table("answer").num_rows == 8


def test_without_a_folder_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = dry_play(model_game(), quiet=True)
    assert not run.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_reward_that_always_raises_is_found_in_seconds() -> None:
    graph = model_game()
    score = graph.add("broken", FunctionReward(function=_raises), rollouts=graph.output("answer"))
    graph.add("credit_broken", GroupAdvantage(), scored=score)
    with pytest.raises(RewardFailed, match=r"nodes\.broken .*no column 'x'"):
        dry_play(graph, quiet=True)


def _raises(**columns: object) -> list[float]:
    raise KeyError("no column 'x'")


@pytest.mark.long
def test_the_command_plays_as_many_peers_as_the_exchanges_need(tmp_path: Path) -> None:
    text = (GRAPHS / "tiny_multistage.yaml").read_text()
    assert "peers: 2" in text
    command = [sys.executable, "-m", "genrl_graph", "run", "--dry", str(GRAPHS / "tiny_multistage.yaml"), "run.peers=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "dry play of tiny_multistage: ok (1 round" in done.stderr
    assert not (tmp_path / "runs").exists()


def folder_of_a_model(folder: Path, *, context: int) -> Path:
    """Write the configuration and a tokenizer with one token per character, as of a model; no weights are needed."""
    characters = [chr(code) for code in range(32, 127)]
    vocabulary = {token: at for at, token in enumerate(["<end>", "\n", *characters])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=" "))
    backend.pre_tokenizer = Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=context).save_pretrained(folder)
    return folder


def test_prompts_are_counted_with_the_tokenizer_of_a_model_that_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, question = str(folder_of_a_model(tmp_path / "model", context=300)), "How many?"
    graph = model_game(model=model, max_prompt_tokens=len(question))
    dry_play(graph)
    assert f"first prompt, {len(question)} tokens \u2500" in capsys.readouterr().err
    reason = (
        rf"answer \(round 0, peer0000\): 8 of 8 rows failed, .*: the prompt has {len(question)} tokens, but at most 8"
    )
    with pytest.raises(TooManyFailed, match=reason):
        dry_play(model_game(model=model, max_prompt_tokens=len(question) - 1), quiet=True)
    with pytest.raises(ParamError, match=r"max_new_tokens: 256 leave no room for a prompt in the 200 tokens"):
        dry_play(model_game(model=str(folder_of_a_model(tmp_path / "short", context=200))), quiet=True)


def test_a_stand_in_s_own_tokenizer_limits_no_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    dry_play(model_game(max_prompt_tokens=1))
    assert "tokens of the stand-in" in capsys.readouterr().err
