"""A game whose rewards hang, crash, eat memory and lie: it ends, every failure is a row, the rest is trained on."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrl_graph import load, play
from genrl_graph.contract.registry import import_file
from genrl_graph.nodes.worker.worker_pool import shared_pool
from genrl_graph.runners.play import Run
from genrl_graph.store.run_store import RunStore

REWARDS = '''
"""Each pays a digit by its own rule, and misbehaves where the completion holds one of its bad digits."""
import os, signal, time
from pathlib import Path

KEPT = []

def digits(completions):
    with open(os.environ["HOSTILE_PIDS"], "a") as file:
        print(os.getpid(), file=file)
    return [reply[0]["content"] for reply in completions]

def value(text, weight):
    return weight * int(text) if text.isdecimal() else 0.0

def hangs(completions, **columns):
    said = digits(completions)
    if "7" in said:
        time.sleep(3600)
    return [value(text, 1.0) for text in said]

def crashes(completions, **columns):
    said = digits(completions)
    if "1" in said:
        os._exit(9)
    if "2" in said:
        os.kill(os.getpid(), signal.SIGSEGV)
    return [value(text, 10.0) for text in said]

def eats_memory(completions, **columns):
    said = digits(completions)
    while "3" in said:
        KEPT.append(bytearray(2**26))
    return [value(text, 100.0) for text in said]

def lies(completions, **columns):
    said = digits(completions)
    if said[0] == "4":
        return [1.0] * (len(said) + 1)
    if said[0] == "5":
        return "all of them"
    return [{"6": "six", "8": float("inf"), "9": [1.0]}.get(text, value(text, 1000.0)) for text in said]
'''
GRAPH = """
graph: hostile
version: 1
carry:
  policy:
    type: policy.tiny_lm
    params: {alphabet: "0123456789", initializer_range: 0.1, hidden_size: 16}
    next: update
nodes:
  tasks:
    type: source.list
    params: {tasks: [{question: "1"}, {question: "2"}, {question: "3"}]}
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: "{{ task.question }}", num_generations: 6, max_new_tokens: 1}
  hangs:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: "hostile_rewards:hangs", rows_per_call: 1, workers: 2, timeout_s: 1}
  crashes:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: "hostile_rewards:crashes", rows_per_call: 1}
  eats_memory:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: "hostile_rewards:eats_memory", rows_per_call: 1, memory_mb: 512}
  lies:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: "hostile_rewards:lies", rows_per_call: 2}
  total:
    type: reward.weighted_sum
    inputs: {scored: [hangs, crashes, eats_memory, lies]}
    params: {others: 1}
  credit: {type: advantage.group, inputs: {scored: total}, params: {scale: none}}
  update:
    type: update.grpo
    inputs: {policy: policy, credited: [credit]}
    params: {learning_rate: 1e-3}
run: {rounds: 4, max_failed_share: 1}
"""
WEIGHTS = {"hangs": 1.0, "crashes": 10.0, "eats_memory": 100.0, "lies": 1000.0}
CALL_ROWS = {"lies": 2}


class Game:
    """The run, its store, and the processes in which its rewards ran."""

    def __init__(self, run: Run, pids: Path) -> None:
        self.run, self.store = run, RunStore.open(run.folder)
        self.pids = sorted({int(line) for line in pids.read_text().splitlines()})

    def column(self, group: str, name: str) -> list[Any]:
        values: list[Any] = self.store.table(group).column(name).to_pylist()
        return values

    def expected(self, node: str) -> list[float | str]:
        """By the rules above: for each row its reward, or a part of the reason why it has none."""
        said, rounds = self.column("answer", "completion"), self.column("answer", "round")
        size, found = CALL_ROWS.get(node, 1), []
        for number in sorted(set(rounds)):
            batch = [text for text, round in zip(said, rounds, strict=True) if round == number]
            for at in range(0, len(batch), size):
                call = batch[at : at + size]
                found += [_expected(node, text, call) for text in call]
        return found


def _expected(node: str, text: str, call: list[str]) -> float | str:
    if node == "lies" and call[0] == "4":
        return f"returned {len(call) + 1} values for {len(call)} completions"
    if node == "lies" and call[0] == "5":
        return "returned 'all of them'; return a list of numbers"
    reasons = {
        ("hangs", "7"): "no answer within 1 s",
        ("crashes", "1"): "the worker process died with exit code 9",
        ("crashes", "2"): "the worker process died with SIGSEGV",
        ("eats_memory", "3"): "MemoryError: out of memory, memory_mb is 512 (hostile_rewards.py:",
        ("lies", "6"): "returned 'six'",
        ("lies", "8"): "returned inf",
        ("lies", "9"): "returned [1.0]",
    }
    return reasons.get((node, text), WEIGHTS[node] * int(text) if text else 0.0)


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Game]:
    """Four rounds."""
    folder = tmp_path_factory.mktemp("hostile")
    pids = folder / "pids"
    (folder / "hostile_rewards.py").write_text(REWARDS)
    (folder / "hostile.yaml").write_text(GRAPH)
    import_file(folder / "hostile_rewards.py")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOSTILE_PIDS", str(pids))
        yield Game(play(load(folder / "hostile.yaml"), out=folder / "run", quiet=True), pids)
    shared_pool.cache_clear()


def test_the_game_ends_normally(game: Game) -> None:
    assert game.run.rounds == 4
    assert set(game.column("answer", "round")) == {0, 1, 2, 3}
    assert len(game.column("answer", "id")) == 4 * 3 * 6


@pytest.mark.parametrize("node", WEIGHTS)
def test_every_failure_is_a_row_and_every_other_row_is_paid(game: Game, node: str) -> None:
    expected = game.expected(node)
    ids, rewards = game.column(node, "id"), game.column(node, "reward")
    assert ids == game.column("answer", "id")
    failures = dict(zip(game.column(f"{node}/failures", "id"), game.column(f"{node}/failures", "reason"), strict=True))
    assert len(failures) == sum(isinstance(value, str) for value in expected) > 0
    for row_id, reward, value in zip(ids, rewards, expected, strict=True):
        if isinstance(value, str):
            assert np.isnan(reward) and value in failures[row_id]
        else:
            assert reward == value and row_id not in failures
    print(f"\n{node:12} {len(ids)} rows, {len(failures)} failed: {sorted(set(failures.values()))}")


def test_rewards_and_advantages_of_the_others_equal_a_fresh_computation(game: Game) -> None:
    judged = [game.expected(node) for node in WEIGHTS]
    total = np.array(
        [sum(values) if all(isinstance(v, float) for v in values) else np.nan for values in zip(*judged, strict=True)]
    )
    assert 0 < np.isfinite(total).sum() < len(total)
    np.testing.assert_array_equal(game.column("total", "reward"), total)
    groups = game.column("answer", "group_id")
    advantage = np.full(len(total), np.nan)
    for group in set(groups):
        places = [at for at, name in enumerate(groups) if name == group and np.isfinite(total[at])]
        advantage[places] = total[places] - total[places].mean() if places else np.nan
    np.testing.assert_allclose(game.column("credit", "advantage"), advantage)


def test_training_goes_on_with_them(game: Game) -> None:
    advantage = dict(zip(game.column("credit", "id"), game.column("credit", "advantage"), strict=True))
    trained = game.column("update/trained", "id")
    assert trained and all(np.isfinite(advantage[name]) for name in trained)
    assert set(trained) >= {name for name, value in advantage.items() if np.isfinite(value) and value != 0}
    assert game.run.before != game.run.after
    assert sorted(set(game.column("answer", "policy_version"))) == [0, 1, 2, 3]


def test_no_process_is_left_behind(game: Game) -> None:
    assert len(game.pids) > 8, "every crash, hang and memory error cost a process"
    assert sum(map(_alive, game.pids)) <= 5, "the idle ones are kept for the next round"
    shared_pool.cache_clear()
    gc.collect()
    assert not [pid for pid in game.pids if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
