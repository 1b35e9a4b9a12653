"""`update.level`: raising and lowering, and its carry."""

from pathlib import Path
from typing import Any

import pytest
import zarr
from fixture_types import MakeRollouts

import genrl_graph
from genrl_graph import Frame
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, score
from genrl_graph.errors import GraphError, ParamError, StoreError
from genrl_graph.nodes.update.level import Level, LevelCarry, RaiseLevel


def after(level: Level, rewards: list[float], make_rollouts: MakeRollouts, **params: Any) -> Level:
    rows: Rollouts = make_rollouts(["x"] * len(rewards))
    parts: list[Frame] = [
        score(rows.take([at]), {"correct": [r], "other": [9.0]}, weights={"other": 0.0}) for at, r in enumerate(rewards)
    ]
    return RaiseLevel(**params).run(level, parts, log=Log())


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 0.6], 4),
        ([1.0, 0.5], 3),
        ([0.2, 0.2], 3),
        ([0.1, 0.2], 2),
        ([float("nan"), 0.9], 4),
        ([float("nan")], 3),
        ([], 3),
    ],
)
def test_the_mean_of_what_was_judged_moves_the_level(
    rewards: list[float], expected: int, make_rollouts: MakeRollouts
) -> None:
    level = Level(3)
    assert after(level, rewards, make_rollouts, raise_at=0.8, lower_at=0.2).value == expected
    assert level.value == 3
    assert after(level, rewards, make_rollouts, raise_at=8, term="other").value == (4 if rewards else 3)


def test_the_level_keeps_to_its_limits(make_rollouts: MakeRollouts) -> None:
    top = LevelCarry(start=2, highest=2).init("level", seed=0)
    assert after(top, [1.0], make_rollouts, raise_at=0.5).value == 2
    assert after(Level(0), [0.0], make_rollouts, raise_at=0.5, lower_at=0.1).value == 0


def test_a_saved_level_is_the_level(tmp_path: Path) -> None:
    Level(4, 9).save(tmp_path)
    other = Level(0)
    other.load(tmp_path)
    assert (other.value, other.highest, other.digest()) == (4, 9, Level(4, 9).digest())
    assert len({Level(4, 9).digest(), Level(4).digest(), Level(9, 9).digest()}) == 3
    (tmp_path / "level.json").write_text("{}")
    with pytest.raises(StoreError, match="holds no level"):
        other.load(tmp_path)


def test_params_that_contradict_each_other() -> None:
    with pytest.raises(ParamError, match=r"lower_at 0.5 must be below raise_at 0.5"):
        RaiseLevel(raise_at=0.5, lower_at=0.5)
    with pytest.raises(ParamError, match="start is 3, above highest 2"):
        LevelCarry(start=3, highest=2)


CURRICULUM = """\
graph: curriculum
version: 1
carry:
  policy: {type: policy.tiny_lm, params: {alphabet: "01ab", hidden_size: 16, initializer_range: 0.1}, next: train}
  level: {type: carry.level, params: {highest: 1}, next: harder}
nodes:
  tasks:
    type: source.mix
    inputs: {level: level}
    params:
      num_tasks: 2
      members:
        easy: {type: source.list, params: {tasks: [{question: a, answer: 1}, {question: aa, answer: 1}]}}
        hard:
          type: source.list
          params: {tasks: [{question: b, answer: 0}, {question: bb, answer: 0}]}
          level: 1
          weight: 3
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: "{{ task.question }}", num_generations: 16, max_new_tokens: 1}
  score:
    type: reward.regex
    inputs: {rollouts: answer}
    params: {pattern: '^(\\d)$', compare: true, term: correct, timeout_s: null}
  credit: {type: advantage.group, inputs: {scored: score}}
  train:
    type: update.grpo
    inputs: {policy: policy, credited: [credit]}
    params: {learning_rate: 1e-2}
  harder:
    type: update.level
    inputs: {level: level, scored: [score]}
    params: {raise_at: 0.75, term: correct}
"""


def test_a_mix_becomes_harder_once_the_policy_solves_what_is_easy(tmp_path: Path) -> None:
    (tmp_path / "game.yaml").write_text(CURRICULUM)
    graph = genrl_graph.load(tmp_path / "game.yaml")
    run = genrl_graph.play(graph, out=tmp_path / "run", rounds=25, quiet=True)
    root: Any = zarr.open(str(run.rollouts), mode="r")
    hard = ["/hard/" in id for id in root["answer/task_id"][:]]
    begins = hard.index(True)
    rounds, rewards = root["score/round"][:], root["score/reward_correct"][:]
    assert 0 < rounds[begins] < 25 and rewards[rounds < rounds[begins] - 1].mean() < 0.75
    assert rewards[rounds == rounds[begins] - 1].mean() >= 0.75
    assert run.after["peer0000", "level"] == Level(1, 1).digest()


def test_a_level_that_is_raised_but_not_carried_on_is_told(tmp_path: Path) -> None:
    (tmp_path / "game.yaml").write_text(CURRICULUM.replace(", next: harder", ""))
    with pytest.raises(GraphError, match="next: harder"):
        genrl_graph.load(tmp_path / "game.yaml")
