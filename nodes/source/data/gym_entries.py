"""Entries of reasoning-gym data sets: made from (data set, config, seed, index), and scored.

Plain functions of JSON values, so that a worker process makes the very entry that it scores: entries hold tuples
that JSON would turn into lists, after which some data sets no longer know their own answers.
"""

import contextlib
import dataclasses
import json
import os
import random
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from genrl_graph.errors import DataError
from genrl_graph.messages import did_you_mean

# Their entries depend on the order of Python sets: found by running reasoning-gym 0.1.25 under five hash seeds.
HASH_ORDERED = frozenset(
    ("isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class GymEntry:
    """One entry and all that is needed to make it again."""

    dataset: str
    config: str  # the JSON object of the data set's config, without seed
    seed: int
    index: int
    entry: Mapping[str, Any]


def make_entry(dataset: str, config: str, seed: int, index: int) -> GymEntry:
    """The entry at `index` of a data set with this config and seed: the same in every process.

    Raises `DataError` for an unknown data set, a config that it refuses, or an index beyond its size.
    """
    if index >= data_set_size(dataset, config):
        raise DataError(f"{dataset}: index {index} is beyond its size {data_set_size(dataset, config)}")
    return GymEntry(dataset, config, seed, index, _entry(dataset, config, seed, index))


def score_entry(answer: str, dataset: str, config: str, seed: int, index: int) -> float:
    """What the data set itself pays for an answer to its entry, 0 to 1."""
    entry = make_entry(dataset, config, seed, index).entry
    return float(_data_set(dataset, config, seed).score_answer(answer, entry))


def data_set_size(dataset: str, config: str) -> int:
    """How many entries the data set has for each seed."""
    return len(_data_set(dataset, config, 0))


@lru_cache(maxsize=1024)
def _entry(dataset: str, config: str, seed: int, index: int) -> Mapping[str, Any]:
    made = _data_set(dataset, config, seed)
    with _refused(dataset, f"entry {index} of seed {seed}"), _global_random(f"{seed}-{index}"):
        entry: Mapping[str, Any] = made[index]
        return entry


@lru_cache(maxsize=32)
def _data_set(dataset: str, config: str, seed: int) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        hint = did_you_mean(dataset, DATASETS) or f"; it has {', '.join(sorted(DATASETS))}"
        raise DataError(f"{dataset!r}: no such data set in reasoning_gym{hint}")
    params = json.loads(config)
    fields = [field.name for field in dataclasses.fields(DATASETS[dataset][1]) if field.name != "seed"]
    for name in params:
        if name not in fields:
            raise DataError(
                f"{dataset}: unknown param {name!r}{did_you_mean(name, fields)}; it has {', '.join(fields)}"
            )
    members = params.get("datasets", []) if dataset == "composite" else []
    with _refused(dataset, f"params {config}"), _global_random(str(seed)):
        if members:
            from reasoning_gym.composite import DatasetSpec

            params["datasets"] = [DatasetSpec(**{"weight": 1.0, "config": {}, **member}) for member in members]
        _require_fixed_hashes({dataset, *(member["name"] for member in members)})
        return reasoning_gym.create_dataset(dataset, seed=seed, **params)


def _require_fixed_hashes(names: set[str]) -> None:
    loose = sorted(names & HASH_ORDERED)
    if loose and os.environ.get("PYTHONHASHSEED") != "0":
        why = "its tasks depend on Python's hash seed, so no other process could make them again"
        raise DataError(f"{loose[0]}: {why}; start with PYTHONHASHSEED=0 in the environment")


@contextlib.contextmanager
def _refused(dataset: str, what: str) -> Iterator[None]:
    """What the data set raises for its own config or entry, as one line."""
    try:
        yield
    except (AssertionError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{dataset}: {what}: {reason}") from error


@contextlib.contextmanager
def _global_random(seed: str) -> Iterator[None]:
    """Some data sets draw from the global `random`: it is seeded for them and put back."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
