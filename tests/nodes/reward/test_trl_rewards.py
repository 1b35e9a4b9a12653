"""Every reward function of TRL named in a graph file gives the values of a direct call."""

from typing import Any

import numpy as np
import pytest
import trl.rewards

from genrl_graph import load, play
from genrl_graph.store.run_store import RunStore

GRAPH = """
graph: trl_rewards
version: 1
nodes:
  tasks:
    type: source.list
    params:
      tasks:
        - {question: What is a third?, answer: '\\frac{1}{3}'}
        - {question: What is six times seven?, answer: '$42$'}
        - {question: Who wrote it?, answer: Nobody knows}
  answer:
    type: generate.test_scripted
    inputs: {tasks: tasks}
    params:
      completions:
        - '<think>Easy.</think>The answer is \\boxed{{answer}}'
        - '\\boxed{{answer}}'
        - '<think>Let me see. Let me see. Let me see. Let me see.</think>It must be \\boxed{7}.'
        - 'no idea'
  accuracy:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: "trl.rewards:accuracy_reward", columns: {solution: answer}}
  reasoning:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: "trl.rewards:reasoning_accuracy_reward", columns: {solution: answer}}
  think:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: "trl.rewards:think_format_reward"}
  cosine:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: "trl.rewards:get_cosine_scaled_reward", factory: {max_len: 80}, columns: {solution: answer}}
  repetition:
    type: reward.function
    inputs: {rollouts: answer}
    params: {function: "trl.rewards:get_repetition_penalty_reward", factory: {ngram_size: 4, max_penalty: -0.5}}
  overlong:
    type: reward.function
    inputs: {rollouts: answer}
    params:
      function: "trl.rewards:get_soft_overlong_punishment"
      factory: {max_completion_len: 60, soft_punish_cache: 30}
      term: overlong
  total:
    type: reward.weighted_sum
    inputs: {scored: [accuracy, reasoning, think, cosine, repetition, overlong]}
    params:
      terms: {accuracy_reward: 1, overlong: {weight: 0.5, clip: [-0.5, 0]}}
      others: 0.1
      on_nan: skip_term
  credit: {type: advantage.group, inputs: {scored: total}}
run: {rounds: 1}
"""


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, RunStore]:
    """Play the graph; return it with the store of the run."""
    folder = tmp_path_factory.mktemp("trl")
    (folder / "trl_rewards.yaml").write_text(GRAPH)
    graph = load(folder / "trl_rewards.yaml")
    return graph, RunStore.open(play(graph, out=folder / "run", quiet=True).folder)


def test_they_pay_what_they_return_when_called(game: tuple[Any, RunStore]) -> None:
    graph, store = game
    rows = store.table("answer")
    answers = dict(
        zip(store.table("tasks").column("id").to_pylist(), store.table("tasks").column("answer"), strict=True)
    )
    given = {
        "completions": [[{"role": "assistant", "content": text}] for text in rows.column("completion").to_pylist()],
        "completion_ids": rows.column("completion_ids").to_pylist(),
        "solution": [answers[task].as_py() for task in rows.column("task_id").to_pylist()],
    }
    played, lines = set(), []
    for name, part in graph.nodes.items():
        if part.type_name != "reward.function":
            continue
        function = part.node.function.partition(":")[2]
        call = getattr(trl.rewards, function)
        call = call if part.node.factory is None else call(**part.node.factory)
        expected = np.array(call(**given), dtype=float)
        paid = store.table(name).column("reward").to_numpy()
        np.testing.assert_array_equal(paid, expected, err_msg=function)
        assert len(set(expected)) > 1, f"{function} pays all alike: nothing is shown"
        played.add(function)
        lines.append(f"{function:32} {len(paid):4} rows, mean reward {np.nanmean(paid):6.3f}")
    print("", *lines, sep="\n")
    assert played == {name for name in trl.rewards.__all__ if name.startswith("get_") or name.endswith("_reward")}
    assert len(played) == 6


def test_what_they_cannot_judge_is_a_row_with_a_reason(game: tuple[Any, RunStore]) -> None:
    _, store = game
    rows = store.table("answer").to_pylist()
    prose = [row["id"] for row in rows if row["task_id"] == "tasks/2"]
    assert store.table("accuracy/failures").column("id").to_pylist() == prose
    assert set(store.table("accuracy/failures").column("reason").to_pylist()) == {"returned None"}


def test_their_sum_is_weighted_clipped_and_leaves_no_row_out(game: tuple[Any, RunStore]) -> None:
    _, store = game
    names = ("accuracy", "reasoning", "think", "cosine", "repetition", "overlong")
    values = {name: store.table(name).column("reward").to_numpy() for name in names}
    values["overlong"] = np.clip(values["overlong"], -0.5, 0)
    weights = {"accuracy": 1.0, "overlong": 0.5}
    expected = np.nansum([weights.get(name, 0.1) * value for name, value in values.items()], axis=0)
    np.testing.assert_allclose(store.table("total").column("reward").to_numpy(), expected)
    assert np.isfinite(store.table("credit").column("advantage").to_numpy()).all()
