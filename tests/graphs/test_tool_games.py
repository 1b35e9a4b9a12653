"""Games with tools go through every door: played, trained, looked at, cut, resumed, replayed, and among peers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import GraphError, TokenSequence, load
from genrl_graph.cli import run_command
from genrl_graph.contract import registry
from genrl_graph.edge_types.turns import Turns
from genrl_graph.runners.play import play
from genrl_graph.store.run_store import RunStore

SCRIPT = Path(__file__).parents[1] / "tool_script.py"
registry.import_file(SCRIPT)

SUM = """
graph: sum
version: 1
carry:
  policy:
    type: policy.calling_lm
    params: {hidden_size: 8, heads: 1, layers: 1, max_context: 2048}
    next: update
nodes:
  tasks: {type: source.environment, params: {environment: {kind: text, id: arithmetic}, num_episodes: 2}}
  play:
    type: generate.dialogue
    inputs: {tasks: tasks, policy: policy}
    params:
      tools: [{type: tool.function, params: {function: "tool_script:Total", params: {start: 4}}}]
      num_generations: 2
      max_new_tokens: 80
      num_envs: 3
  brief: {type: reward.regex, inputs: {rollouts: play}, params: {pattern: '^[a-m]', term: brief}}
  credit: {type: advantage.turns, inputs: {scored: brief}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}, params: {learning_rate: 1e-2}}
run: {rounds: 2, trackers: []}
"""


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    """The game as a file."""
    path = tmp_path / "sum.yaml"
    path.write_text(SUM)
    return path


def stored(folder: Path) -> dict[str, Any]:
    """All columns of all groups."""
    store = RunStore.open(folder)
    return {group: store.table(group).to_pydict() for group in store.groups()}


@pytest.mark.usefixtures("one_thread")
def test_a_result_is_in_the_next_prompt_and_what_is_trained_was_sampled(graph_file: Path, capsys: Any) -> None:
    run = play(load(graph_file), out=graph_file.parent / "run", rounds=1, quiet=True)
    rows = Turns(RunStore.open(run.folder).table("play").drop_columns(["holder", "reward"]))
    assert rows.values("turn") == [0, 1] * 4 and rows.values("heard")[1] == [{"role": "tool total", "content": "7"}]
    policy = load(graph_file).carries["policy"].declared.init("policy", seed=0)  # type: ignore[union-attr]
    sequences = [
        TokenSequence(*ids) for ids in zip(rows.ragged("prompt_ids"), rows.ragged("completion_ids"), strict=True)
    ]
    logprobs = policy.logprobs(sequences, temperatures=np.ones(len(rows), np.float32)).detach().numpy()
    for sampled, computed, prompt in zip(rows.ragged("logprobs"), logprobs, rows.ragged("prompt_ids"), strict=True):
        assert np.allclose(sampled, computed[: len(sampled)], atol=1e-4)
        assert len(prompt) > 100  # the tools, the question, and then the call and its result
    assert all(np.all(mask == 1) for mask in rows.ragged("completion_mask"))
    line = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert line["play/tool_calls"] == 4 and line["play/tool_errors"] == 0
    assert line["update/trained_tokens"] <= sum(map(len, rows.ragged("completion_ids")))
    assert run_command(["rollouts", str(run.folder), "--limit", "1"]) == 0
    assert "[tool total to seat 0]\n7" in capsys.readouterr().out.replace("\n  ", "\n")


@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_peers_play_the_calls_of_others_again(graph_file: Path) -> None:
    others = """
  others:   {type: exchange.gather, inputs: {rows: play}, params: {min_peers: 2}}
  verified: {type: select.verified, inputs: {rows: others, policy: policy}}
  brief: {type: reward.regex, inputs: {rollouts: verified}"""
    graph_file.write_text(SUM.replace("\n  brief: {type: reward.regex, inputs: {rollouts: play}", others))
    run = play(load(graph_file), out=graph_file.parent / "run", peers=2, rounds=1, quiet=True)
    for line in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines()):
        assert line["verified/kept"] == 1.0 and line["verified/refuted"] == 0


KILLED = """
import os, signal
from pathlib import Path
from tool_script import Total

class Deadly(Total):
    calls = 0
    def total(self, amount: int) -> int:
        '''Add to the sum.

        Args:
            amount: what to add
        '''
        Deadly.calls += 1
        if Deadly.calls == 6 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().total(amount)
"""


@pytest.mark.long
def test_a_run_that_is_killed_in_a_call_resumes_exactly_and_is_replayed(graph_file: Path) -> None:
    folder = graph_file.parent
    (folder / "deadly.py").write_text(f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n{KILLED}")
    graph_file.write_text(SUM.replace("tool_script:Total", "deadly:Deadly"))

    def run(*command: str) -> int:
        words = [sys.executable, "-m", "genrl_graph", *command]
        return subprocess.run(words, cwd=folder, capture_output=True, timeout=240).returncode

    imported = ("--import", "deadly.py")
    assert run("run", "sum.yaml", *imported, "-o", "cut") == -9
    assert run("run", "sum.yaml", *imported, "-o", "cut", "--resume") == 0
    assert run("run", "sum.yaml", *imported, "-o", "whole") == 0
    assert stored(folder / "cut") == stored(folder / "whole")
    (folder / "edited.yaml").write_text(graph_file.read_text().replace("[a-m]", "[a-z]"))
    assert run("replay", "whole", "edited.yaml", *imported, "-o", "replayed") == 0


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "{type: tool.function, params",
            "{type: tool.functions, params",
            "no tool named 'tool.functions' .did you mean",
        ),
        ('function: "tool_script:Total"', 'function: "os:system"', "a graph file may not run 'os' by itself"),
        ("type: reward.regex", "type: tool.python", "'tool.python' belongs under `tools` of generate.dialogue, not"),
        (
            "num_envs: 3",
            "num_envs: 3\n      environment: {kind: text, id: question}",
            "but its source names text arithmetic",
        ),
        ("kind: text, id: arithmetic", "kind: trl, id: 'os:system'", "a graph file may not run 'os' by itself"),
        ("kind: text, id: arithmetic", "kind: trl, id: arithmetic", "'arithmetic' is no name of a function or class"),
    ],
)
def test_tools_that_do_not_fit_are_a_line_of_check(graph_file: Path, old: str, new: str, line: str) -> None:
    assert old in SUM
    graph_file.write_text(SUM.replace(old, new))
    with pytest.raises(GraphError, match=line):
        load(graph_file)
