"""A small game without torch, as a file, whose runs take no time but that of their process."""

from pathlib import Path

import pytest

GAME = """graph: numbers
version: 1
carry:
  policy: {type: policy.toy, next: update}
nodes:
  tasks: {type: source.toy_numbers}
  draw: {type: generate.toy_draw, inputs: {tasks: tasks, policy: policy}}
  slow: {type: select.toy_slow, inputs: {rows: draw}}
  score: {type: reward.toy_parity, inputs: {rollouts: slow}}
  credit: {type: advantage.toy_centred, inputs: {scored: score}}
  update: {type: update.toy_step, inputs: {policy: policy, credited: [credit]}}
run: {rounds: 4, trackers: []}
"""


@pytest.fixture
def game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the game into the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = tmp_path / "numbers.yaml"
    path.write_text(GAME)
    return path
