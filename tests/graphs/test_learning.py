"""Games that learn, as the documentation says, over several seeds: `make learn` plays them and prints the tables."""

from collections.abc import Sequence
from pathlib import Path

import pytest

import genrl_graph
from genrl_graph.comparison.history import Unit
from genrl_graph.comparison.result import Comparison

pytestmark = [pytest.mark.soak, pytest.mark.timeout(4 * 3600)]

GRAPHS = Path(__file__).parents[2] / "graphs"
SAID = '{user: "What is 27 * 14?", assistant: "378"}'
"""The example of `dialogue/python_tool` without its tool: the result is said at once."""


def played(folder: Path, label: str, graph: str, *overrides: str, seeds: int) -> str:
    """Play a shipped game with several seeds; return what `compare` reads."""
    sweep = genrl_graph.sweep(GRAPHS / graph, overrides, seeds=range(seeds), out=folder / label)
    assert not sweep.failed, [end.reason for end in sweep.failed]
    return f"{label}={sweep.folder}/*"


def compared(
    folder: Path, *runs: str, at: Unit = "rounds", metrics: Sequence[str], expect: Sequence[str]
) -> Comparison:
    """Compare runs, and print the table."""
    comparison = genrl_graph.compare(*runs, at=at, metrics=metrics, expect=expect, out=folder / "compared")
    print("", (folder / "compared" / "table.md").read_text(), sep="\n")
    return comparison


@pytest.mark.usefixtures("contained")
def test_a_small_model_computes_with_its_tool_and_training_makes_it_call(tmp_path: Path) -> None:
    alone = (
        "nodes.play.params.tools=[]",
        "nodes.play.params.max_turns=1",
        "nodes.play.params.system=Answer with the number.",
        f"nodes.play.params.examples=[{SAID}]",
    )
    game = "dialogue/python_tool.yaml"
    runs = [played(tmp_path, "tool", game, seeds=3), played(tmp_path, "alone", game, *alone, seeds=3)]
    solved = "eval/stage0/return"
    expect = [f"{solved}(tool) > {solved}(tool@0)", f"{solved}(tool) > {solved}(alone)"]
    assert compared(tmp_path, *runs, metrics=[solved, "eval/play/tool_calls"], expect=expect).met


@pytest.mark.usefixtures("contained")
def test_a_solver_learns_from_tasks_that_grow_with_it(tmp_path: Path) -> None:
    runs = played(tmp_path, "code", "code_game/tiny.yaml", seeds=5)
    solved, level = "eval/score/pass_at_1", "update_level/level"
    expect = [f"{solved}(code) > {solved}(code@0) + 0.15", f"{level}(code) > {level}(code@0) + 1"]
    assert compared(tmp_path, runs, metrics=[solved, level, "score/reward", "pay/solved"], expect=expect).met


def test_ppo_and_grpo_learn_the_same_game_from_as_many_tokens(tmp_path: Path) -> None:
    rounds = "run.rounds=120"
    update = ("nodes.update.params.epochs=2", "nodes.update.params.decay_steps=600")
    like_ppo = ("nodes.answer.params.max_new_tokens=2", *update)
    runs = [
        played(tmp_path, "ppo", "tiny_ppo.yaml", rounds, seeds=5),
        played(tmp_path, "grpo", "tiny.yaml", rounds, *like_ppo, seeds=5),
    ]
    reward = "stage0/reward"
    expect = [f"{reward}({name}) > {reward}({name}@0) + 0.5" for name in ("ppo", "grpo")]
    assert compared(tmp_path, *runs, at="sampled_tokens", metrics=[reward], expect=expect).met
