"""`source.reasoning_gym`: entries, seeds, composites and errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Place
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.reasoning_gym import EVAL_SEEDS, MAX_ENTRIES, TRAINING_SEEDS, ReasoningGym
from genrl_graph.seeds import stream

SCRIPT = """
import json, sys
from genrl_graph.errors import DataError
from genrl_graph.nodes.source.reasoning_gym import ReasoningGym
from genrl_graph.seeds import stream
for name in sys.argv[1:]:
    try:
        print(json.dumps(ReasoningGym(dataset=name, num_tasks=3).run(rng=stream("s"), round=2).rows()))
    except DataError as error:
        print(json.dumps(str(error)))
"""


def in_a_process(*names: str, hash_seed: str) -> list[object]:
    env = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, check=True, env=env)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_rounds_give_new_tasks_that_any_id_makes_again() -> None:
    source = ReasoningGym(dataset="basic_arithmetic", params={"max_terms": 3}, num_tasks=4).placed(Place("tasks"))
    rounds = [source.run(rng=stream("s"), round=r) for r in range(3)]
    ids = [name for rows in rounds for name in rows.values("id")]
    assert len(set(ids)) == 12 and ids[5].startswith("tasks/basic_arithmetic-") and ids[5].endswith("-5")
    for row in rounds[1].rows():
        task = source.resolve(row["id"])
        assert (task.messages, task.answer, task.metadata) == (
            row["messages"],
            row["answer"],
            json.loads(row["metadata"]),
        )
        assert task.metadata["source_dataset"] == "basic_arithmetic"


def test_a_task_of_another_seed_is_made_too() -> None:
    source = ReasoningGym(dataset="basic_arithmetic")
    mine = source.resolve("source.reasoning_gym/basic_arithmetic-17-3")
    assert mine.messages != source.resolve("source.reasoning_gym/basic_arithmetic-18-3").messages
    assert mine == ReasoningGym(dataset="basic_arithmetic").resolve("source.reasoning_gym/basic_arithmetic-17-3")


def test_after_the_last_entry_comes_the_next_seed() -> None:
    source = ReasoningGym(dataset="basic_arithmetic", params={"size": 3}, num_tasks=5)
    keys = [name.rsplit("-", 2)[1:] for name in source.run(rng=stream("s"), round=0).values("id")]
    assert [index for _, index in keys] == ["0", "1", "2", "0", "1"]
    assert keys[0][0] == keys[2][0] != keys[3][0] == keys[4][0]


@pytest.mark.parametrize(
    "key",
    [
        "maze-1-1",
        "basic_arithmetic-1",
        "basic_arithmetic-01-1",
        "basic_arithmetic-4294967296-1",
        "basic_arithmetic-1-500",
    ],
)
def test_ids_of_others_are_refused(key: str) -> None:
    with pytest.raises(DataError):
        ReasoningGym(dataset="basic_arithmetic").resolve(f"source.reasoning_gym/{key}")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dataset": "basic_arithmetics"}, "did you mean 'basic_arithmetic'"),
        ({"dataset": "basic_arithmetic", "params": {"max_term": 3}}, "did you mean 'max_terms'"),
        ({"dataset": "basic_arithmetic", "params": {"max_terms": -3}}, "basic_arithmetic: params"),
        ({"dataset": "basic_arithmetic", "params": {"max_terms": "three"}}, "basic_arithmetic: params"),
        ({"dataset": "composite"}, "at least one dataset"),
    ],
)
def test_what_reasoning_gym_refuses_is_one_line(params: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        ReasoningGym(**params).run(rng=stream("s"), round=0)
    assert "\n" not in str(raised.value)


def test_params_are_checked_without_reasoning_gym() -> None:
    for params in ({"num_tasks": 0}, {"params": {"seed": 1}}, {"params": {"x": {1}}}, {"dataset": ""}):
        with pytest.raises(ParamError):
            ReasoningGym(**({"dataset": "maze"} | params))


def test_a_mix_of_data_sets() -> None:
    members = [{"name": "basic_arithmetic"}, {"name": "leg_counting", "config": {"max_animals": 4}}]
    rows = ReasoningGym(dataset="composite", params={"datasets": members}, num_tasks=12).run(rng=stream("s"), round=0)
    names = {json.loads(text)["source_dataset"] for text in rows.values("metadata")}
    assert names == {"basic_arithmetic", "leg_counting"}


@pytest.mark.long
def test_every_process_makes_the_same_tasks_or_says_that_it_cannot() -> None:
    names = ("leg_counting", "list_functions", "word_ladder")
    (legs, lists, message), fixed = in_a_process(*names, hash_seed="1"), in_a_process(*names, hash_seed="0")
    assert isinstance(legs, list) and isinstance(lists, list) and len(legs) == len(lists) == 3
    assert [legs, lists] == fixed[:2]
    assert "word_ladder" in str(message) and "PYTHONHASHSEED=0" in str(message)
    assert isinstance(fixed[2], list) and fixed[2:] == in_a_process("word_ladder", hash_seed="0")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 10**6), st.integers(1, 5))
def test_seeds_of_evaluation_are_far_from_those_of_training(seed: int, size: int, round: int, num_tasks: int) -> None:
    source = ReasoningGym(dataset="leg_counting", params={"size": size}, num_tasks=num_tasks)
    trained = source.run(rng=stream(seed), round=round).values("id")
    held_out = source.evaluated(Evaluation(num_tasks=9))
    asked = held_out.run(rng=stream(seed), round=0).values("id")
    assert len(asked) == 9 and asked == held_out.run(rng=stream(seed), round=0).values("id")
    low, high = ([sum(map(int, key.rsplit("-", 2)[1:])) for key in keys] for keys in (trained, asked))
    assert max(low) < TRAINING_SEEDS + MAX_ENTRIES < EVAL_SEEDS <= min(high)
    assert source.resolve(asked[3]).id == asked[3]


COMPOSITE = """
size: 40
seed: 42
datasets:
  - name: basic_arithmetic
    weight: 2.0
    config: {min_terms: 2, max_terms: 2, seed: 7}
  - name: leg_counting
    weight: 1.0
    config: {}
"""


def test_any_composite_from_a_file_of_reasoning_gym_s_own(tmp_path: Path) -> None:
    from reasoning_gym.composite import CompositeConfig, CompositeDataset

    (tmp_path / "mine.yaml").write_text(COMPOSITE)
    source = ReasoningGym(config=str(tmp_path / "mine.yaml"), num_tasks=12).placed(Place("tasks"))
    source.prepare()
    rows = source.run(rng=stream("s"), round=0).rows()
    _, seed, index = rows[5]["id"].rsplit("-", 2)
    theirs = CompositeConfig.from_yaml(str(tmp_path / "mine.yaml"))
    theirs.seed = int(seed)
    del theirs.datasets[0].config["seed"]
    entry = CompositeDataset(theirs)[int(index)]
    assert (rows[5]["messages"][0]["content"], rows[5]["answer"]) == (entry["question"], entry["answer"])
    assert {source.resolve(row["id"]).kind for row in rows} == {"basic_arithmetic", "leg_counting"}
    assert len({row["id"].rsplit("-", 2)[1] for row in rows}) == 1 != int(seed) != 42


def test_a_composite_of_another_content_is_no_composite_of_ours(tmp_path: Path) -> None:
    ids = []
    for folder, text in (("a", COMPOSITE), ("b", COMPOSITE.replace("seed: 42", "seed: 1")), ("c", COMPOSITE + "#")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(text)
        ids.append(ReasoningGym(config=str(tmp_path / folder / "mine.yaml")).run(rng=stream("s"), round=0).values("id"))
    assert ids[0] == ids[1] == ids[2]
    (tmp_path / "c" / "mine.yaml").write_text(COMPOSITE.replace("max_terms: 2", "max_terms: 3"))
    with pytest.raises(DataError, match="composite@"):
        ReasoningGym(config=str(tmp_path / "c" / "mine.yaml")).resolve(ids[0][0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "relative path starts at the graph file"),
        ("a: [", "no YAML"),
        ("datasets: 3", "list `datasets` with name"),
        ("datasets: [{name: mazes}]", "mazes"),
        ("datasets: [{name: maze, config: {1: 2}}]", "put it in quotes"),
        ("datasets: [{name: maze}]\nsizes: 3", "did you mean 'size'"),
    ],
)
def test_files_that_are_no_composite(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        ReasoningGym(config=str(path)).prepare()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"dataset": "maze", "config": "x.yaml"},
        {"config": "x.yaml", "params": {"size": 3}},
        {"dataset": "composite", "params": {"datasets": [{"name": "maze", "config": {"seed": 1}}]}},
    ],
)
def test_a_data_set_or_a_file_and_no_seeds(params: dict[str, object]) -> None:
    with pytest.raises(ParamError):
        ReasoningGym(**params)
