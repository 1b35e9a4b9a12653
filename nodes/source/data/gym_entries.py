"""Entries of reasoning-gym data sets: generated from (data set, config, seed, index), and scored.

Arguments are plain JSON, and a worker process generates the entry that it scores instead of receiving it: JSON would
turn an entry's tuples into lists, and some data sets then reject their own answers.
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

# Entries of these depend on the order of Python sets (reasoning-gym 0.1.25, compared under five hash seeds).
HASH_ORDERED = frozenset(
    ("isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class GymEntry:
    """One entry and the parameters that generate it."""

    dataset: str
    config: str  # config of the data set as a JSON object, without seed
    seed: int
    index: int
    entry: Mapping[str, Any]


def make_entry(dataset: str, config: str, seed: int, index: int) -> GymEntry:
    """Generate the entry at `index` of a data set with this config and seed, the same in every process.

    Raises `DataError` for an unknown data set, an invalid config, or an index beyond the data set's size.
    """
    if index >= data_set_size(dataset, config):
        raise DataError(f"{dataset}: index {index} is beyond its size {data_set_size(dataset, config)}")
    return GymEntry(dataset, config, seed, index, _entry(dataset, config, seed, index))


def score_entry(answer: str, dataset: str, config: str, seed: int, index: int) -> float:
    """Return the data set's own score of an answer to its entry, 0 to 1."""
    entry = make_entry(dataset, config, seed, index).entry
    return float(_data_set(dataset, config, seed).score_answer(answer, entry))


def data_set_size(dataset: str, config: str) -> int:
    """Return the number of entries that the data set has per seed."""
    return len(_data_set(dataset, config, 0))


@lru_cache(maxsize=1024)
def _entry(dataset: str, config: str, seed: int, index: int) -> Mapping[str, Any]:
    data_set = _data_set(dataset, config, seed)
    with _data_set_errors(dataset, f"entry {index} of seed {seed}"), _global_random(f"{seed}-{index}"):
        entry: Mapping[str, Any] = data_set[index]
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
    with _data_set_errors(dataset, f"params {config}"), _global_random(str(seed)):
        if members:
            from reasoning_gym.composite import DatasetSpec

            params["datasets"] = [DatasetSpec(**{"weight": 1.0, "config": {}, **member}) for member in members]
        _require_fixed_hashes({dataset, *(member["name"] for member in members)})
        return reasoning_gym.create_dataset(dataset, seed=seed, **params)


def _require_fixed_hashes(names: set[str]) -> None:
    hash_ordered = sorted(names & HASH_ORDERED)
    if hash_ordered and os.environ.get("PYTHONHASHSEED") != "0":
        reason = "its tasks depend on Python's hash seed, so no other process could make them again"
        raise DataError(f"{hash_ordered[0]}: {reason}; start with PYTHONHASHSEED=0 in the environment")


@contextlib.contextmanager
def _data_set_errors(dataset: str, what: str) -> Iterator[None]:
    """Convert an error of the data set about its config or entry to a one-line `DataError`."""
    try:
        yield
    except (AssertionError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{dataset}: {what}: {reason}") from error


@contextlib.contextmanager
def _global_random(seed: str) -> Iterator[None]:
    """Seed the global `random`, from which some data sets draw, and restore its state afterwards."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
