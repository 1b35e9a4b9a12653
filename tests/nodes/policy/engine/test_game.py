"""A game whose policy an engine samples for, from the graph file to the run folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from architectures import causal
from engine_server import EngineServer

from genrl_graph import GraphError, load
from genrl_graph.cli import run_command
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.policy.tiny_lm import TinyLM
from genrl_graph.runners.play import play
from genrl_graph.store.run_store import RunStore

GAME = """
graph: served
version: 1
carry:
  policy:
    type: {type}
    params:
      model: "{folder}"
      compute_dtype: float32
      device: cpu
      engine: {{kind: vllm, urls: ["{url}"], dtype: float32, retries: 0, max_log_ratio: 0.001}}
    next: update
nodes:
  tasks: {{type: source.list, params: {{tasks: [{{question: "1+1?"}}, {{question: "2+2?"}}]}}}}
  answer:
    type: generate.answer
    inputs: {{tasks: tasks, policy: policy}}
    params: {{template: "{{{{ task.question }}}}", num_generations: 4, max_new_tokens: 4}}
  score: {{type: reward.regex, inputs: {{rollouts: answer}}, params: {{pattern: "[a-m]", timeout_s: null}}}}
  credit: {{type: advantage.group, inputs: {{scored: score}}}}
  update: {{type: update.grpo, inputs: {{policy: policy, credited: [credit]}}, params: {{learning_rate: 0.01}}}}
run: {{rounds: 2, mode: train, trackers: []}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    causal(TinyLM(hidden_size=16, heads=2, initializer_range=0.3).init("base", seed=0)).export(path)
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[EngineServer]:
    with EngineServer(folder) as server:
        yield server


@pytest.fixture
def game(folder: Path, server: EngineServer, tmp_path: Path) -> Path:
    path = tmp_path / "served.yaml"
    path.write_text(GAME.format(type="policy.causal_lm", folder=folder, url=server.url))
    return path


def test_rows_are_stored_with_the_version_of_their_weights(game: Path, tmp_path: Path, server: EngineServer) -> None:
    play(load(game), out=tmp_path / "run")
    rows = RunStore.open(tmp_path / "run").table("answer").to_pydict()
    assert rows["weight_version"] == rows["policy_version"] == [0] * 8 + [1] * 8
    asked = len(server.seen)
    assert run_command(["resume", str(tmp_path / "run"), "run.rounds=3"]) == 0
    assert server.paths()[asked:].count("/inference/v1/generate") == 8  # those of the new round only


def test_a_run_without_its_engine_ends_and_goes_on_later(game: Path, tmp_path: Path, server: EngineServer) -> None:
    server.ignores_weights = True
    with pytest.raises(NodeFailed, match=r"nodes.answer \(round 1, peer0000\): .* it samples with version 0"):
        play(load(game), out=tmp_path / "run")
    server.ignores_weights = False
    assert run_command(["resume", str(tmp_path / "run")]) == 0
    rows = RunStore.open(tmp_path / "run").table("answer").to_pydict()
    assert rows["weight_version"] == [0] * 8 + [1] * 8


def test_the_plan_names_the_engine(game: Path, server: EngineServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["plan", str(game)]) == 0
    assert f"next round update; vllm samples: {server.url}" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "value"), [("top_k", 5), ("top_p", 0.9), ("min_p", 0.1)])
def test_the_check_refuses_what_an_engine_does_not_give_back(game: Path, name: str, value: Any) -> None:
    with pytest.raises(GraphError, match=f"engine of kind vllm samples the whole distribution only.*{name}"):
        load(game, [f"nodes.answer.params.{name}={value}"])
