"""A system clock that jumps: nothing waits, ends early or has another result because of it."""

import itertools
import time
from pathlib import Path

import pytest
from crash import Left

from genrl_graph import load, play

GAME = """\
graph: jumps
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {alphabet: "ab?", hidden_size: 8, layers: 1, heads: 1}, next: update}
nodes:
  tasks: {type: source.list, params: {tasks: [{question: a?}, {question: b?}]}}
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: "{{ task.question }}", num_generations: 4, max_new_tokens: 2}
  shared: {type: exchange.gather, inputs: {rows: answer}, params: {min_peers: 2, timeout_s: 5, on_short: fail}}
  score: {type: reward.regex, inputs: {rollouts: shared}, params: {pattern: "b", timeout_s: 20}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}, params: {learning_rate: 1e-2}}
run: {rounds: 2, peers: 2, checkpoint_every: 1, trackers: []}
"""
DAY_S = 86_400.0


def test_a_day_forth_and_back_at_every_look_at_the_clock_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "game.yaml").write_text(GAME)
    game = load(tmp_path / "game.yaml")
    calm = play(game, out=tmp_path / "calm", quiet=True)
    now, jump = time.time, itertools.cycle((DAY_S, -DAY_S))
    monkeypatch.setattr(time, "time", lambda: now() + next(jump))
    jumpy = play(game, out=tmp_path / "jumpy", quiet=True)
    digests = {"/".join(key): value for key, value in jumpy.after.items()}
    assert digests == {"/".join(key): value for key, value in calm.after.items()}
    assert Left.of(tmp_path / "jumpy", {}).differences(Left.of(tmp_path / "calm", {})) == []
