"""Dry play: every shipped graph in seconds, without a model or a hub, and errors before the real run."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import genrl_graph.graphs
from genrl_graph import Graph, load
from genrl_graph.errors import RewardFailed
from genrl_graph.nodes.library import Answer, CausalLM, FunctionReward, GroupAdvantage, Grpo, ListSource, RegexReward
from genrl_graph.runners.dry import dry_play
from genrl_graph.store.run_store import RunStore

GRAPHS = Path(next(iter(genrl_graph.graphs.__path__)))
SHIPPED = sorted(GRAPHS.rglob("*.yaml"))


def test_every_shipped_graph_is_played_dry(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SHIPPED) >= 8
    for path in SHIPPED:
        started = time.monotonic()
        dry_play(load(path))
        print(f"{path.relative_to(GRAPHS)}: {time.monotonic() - started:.1f} s")
        shown = capsys.readouterr()
        assert "dry play of" in shown.err and ": ok (1 round" in shown.err
        with capsys.disabled():
            print(shown.out.splitlines()[-1])


def model_game(template: str = "{{ task.question }}", pattern: str = "is") -> Graph:
    graph = Graph("dry")
    policy = graph.carry("policy", CausalLM(model="nobody/has-this-model"))
    tasks = graph.add("tasks", ListSource(tasks=[{"question": "How many?", "answer": "7"}]))
    answer = graph.add("answer", Answer(template=template, num_generations=8), tasks=tasks, policy=policy)
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


def test_the_command_plays_as_many_peers_as_the_exchanges_need(tmp_path: Path) -> None:
    text = (GRAPHS / "tiny_multistage.yaml").read_text()
    assert "peers: 2" in text
    command = [sys.executable, "-m", "genrl_graph", "run", "--dry", str(GRAPHS / "tiny_multistage.yaml"), "run.peers=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "dry play of tiny_multistage: ok (1 round" in done.stderr
    assert not (tmp_path / "runs").exists()
