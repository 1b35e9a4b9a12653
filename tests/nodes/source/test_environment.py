"""`source.environment`: seeds of training and evaluation episodes."""

import json

import pytest

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Place
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.source.environment import TRAINING_SEEDS, EnvironmentSource
from genrl_graph.seeds import stream

CARTPOLE = EnvironmentSource(environment=Environment(id="CartPole-v1"), num_episodes=3).placed(Place("tasks"))


def seeds(source: EnvironmentSource, round: int, seed: int = 0) -> list[int]:
    return [json.loads(metadata)["seed"] for metadata in source.run(rng=stream(seed), round=round).values("metadata")]


def test_every_round_has_new_seeds_that_its_ids_hold() -> None:
    first, second = seeds(CARTPOLE, 0), seeds(CARTPOLE, 1)
    assert len(set(first + second)) == 6
    assert seeds(CARTPOLE, 0) == first != seeds(CARTPOLE, 0, seed=1)
    rows = CARTPOLE.run(rng=stream(0), round=0)
    assert rows.values("id") == [f"tasks/{seed}" for seed in first]
    task = CARTPOLE.resolve(rows.values("id")[1])
    assert (task.id, task.kind) == (f"tasks/{first[1]}", "CartPole-v1")
    assert task.metadata == json.loads(rows.values("metadata")[1])


def test_evaluations_have_seeds_of_their_own() -> None:
    held_out = CARTPOLE.evaluated(Evaluation(num_tasks=5))
    actual = seeds(held_out, 0)
    assert len(actual) == 5 and min(actual) >= TRAINING_SEEDS > max(seeds(CARTPOLE, 0))
    assert CARTPOLE.resolve(f"tasks/{actual[0]}").metadata["seed"] == actual[0]


@pytest.mark.parametrize("id", ["tasks/", "tasks/x", "tasks/-1", "tasks/01", "other/1", f"tasks/{2**31}", "1"])
def test_an_id_of_another_source_is_refused(id: str) -> None:
    with pytest.raises(DataError, match="is no task of this source"):
        CARTPOLE.resolve(id)


def test_an_environment_that_is_not_there_is_told_before_a_policy_is_made() -> None:
    with pytest.raises(DataError, match="gymnasium CartPol-v1: cannot be made"):
        EnvironmentSource(environment=Environment(id="CartPol-v1")).prepare()
    CARTPOLE.prepare()


def test_an_environment_needs_an_id_of_the_registry() -> None:
    with pytest.raises(ParamError, match="is no id of an environment"):
        EnvironmentSource(environment={"id": "os:system"})
