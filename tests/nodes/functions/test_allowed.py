"""Functions that a graph file names run only if the user allowed them."""

from types import ModuleType

import pytest

from genrl_graph.contract import registry
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document

SCRIPT = """\
import logging
import os
from os import system
from trl.rewards import think_format_reward


def pays(prompts, completions, **columns):
    return [1.0] * len(completions)


class Judges:
    @staticmethod
    def pays(prompts, completions, **columns):
        return [1.0] * len(completions)
"""

GAME = """\
graph: game
version: 1
nodes:
  tasks: {type: source.toy_numbers}
  score:
    type: reward.function
    inputs: {rollouts: tasks}
    params: {function: "%s"}
"""


def problems(function: str) -> list[str]:
    lines = read_document(parse_document(GAME % function, file="game.yaml")).lines()
    return [line for line in lines if "params.function" in line]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("scripts") / "allowed_script.py"
    path.write_text(SCRIPT)
    registry.import_file(path)
    return path.stem


@pytest.mark.parametrize(
    "function",
    [
        "trl.rewards:accuracy_rewards.logging.os.system",
        "trl.rewards:os.system",
        "trl.rewards:accuracy_rewards",
        "trl.rewards.accuracy_rewards:logging",
        "trl:rewards.accuracy_reward",
        "os:system",
        "genrl_graph:play",
    ],
)
def test_a_stranger_s_file_runs_nothing_but_trl_s_own_rewards(function: str) -> None:
    (line,) = problems(function)
    assert "a graph file may not run" in line


def test_trl_s_rewards_are_allowed_by_name_and_a_misspelt_one_is_told() -> None:
    assert problems("trl.rewards:accuracy_reward") == []
    assert "(did you mean 'accuracy_reward'?)" in problems("trl.rewards:accuracy_rewrd")[0]


def test_the_list_of_trl_s_rewards_is_that_of_trl() -> None:
    import trl.rewards

    from genrl_graph.nodes.functions.allowed import TRL_REWARDS

    functions = [name for name in trl.rewards.__all__ if not isinstance(getattr(trl.rewards, name), ModuleType)]
    assert sorted(functions) == sorted(TRL_REWARDS)


@pytest.mark.parametrize("name", ["os.system", "system", "logging.os.system", "pays.__globals__", "logging"])
def test_a_script_allows_what_it_defines_and_not_what_it_imports(name: str, script: str) -> None:
    (line,) = problems(f"{script}:{name}")
    assert "has only imported" in line or "is private" in line


@pytest.mark.parametrize("name", ["pays", "Judges.pays", "think_format_reward"])
def test_what_a_script_defines_or_takes_from_trl_is_allowed(name: str, script: str) -> None:
    assert problems(f"{script}:{name}") == []


def test_a_name_that_the_script_does_not_have_is_told(script: str) -> None:
    assert "(did you mean 'pays'?)" in problems(f"{script}:pay")[0]
