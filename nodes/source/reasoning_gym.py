"""`source.reasoning_gym`: procedural tasks with a verifier each, from reasoning-gym."""

import json
import re
from typing import Any, Self

import numpy as np
from pydantic import Field, PrivateAttr, field_validator, model_validator

from genrl_graph.contract.data_path import DataPath
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Source
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.nodes.source.data.epoch import as_rows, plain
from genrl_graph.nodes.source.data.gym_entries import data_set_size, make_entry
from genrl_graph.nodes.source.data.gym_file import read_composite
from genrl_graph.nodes.source.data.load_table import file_state
from genrl_graph.seeds import digest, substream

_KEY = re.compile(r"(?P<label>[a-z0-9_]+(@[0-9a-f]{8})?)-(?P<seed>0|[1-9][0-9]{0,9})-(?P<index>0|[1-9][0-9]{0,9})")
SEEDS = 2**31  # some data sets add the index to the seed and give numpy the sum, below 2**32
TRAINING_SEEDS = 2**30
EVAL_SEEDS = TRAINING_SEEDS + 2**29
MOST_ENTRIES = 2**28


class ReasoningGym(Source, name="reasoning_gym"):
    """Gives `num_tasks` new entries a round of one reasoning-gym data set; `params` is its config.

    Or of a composite that stands in a YAML file of reasoning-gym's own, `config`, whose seeds are ignored. Task i of
    round r is the entry at r * num_tasks + i. A data set has `size` entries a seed (500, unless its params say
    otherwise), then the source draws the next seed. Keys are `<dataset>-<seed>-<index>`, so any peer makes any task
    again; those of a file are `composite@<hash of its content>-<seed>-<index>`. Raises `DataError` for a data set or
    config that reasoning-gym does not know.

    Entry i of seed s is often entry i - 1 of seed s + 1. So seeds of training lie below 2**30, those of evaluation
    from 2**30 + 2**29 to 2**31, and no seed gives more than 2**28 entries: seed + index of the two never meet.
    """

    dataset: str | None = Field(None, min_length=1)
    config: DataPath | None = Field(None, min_length=1)
    params: dict[str, Any] = {}
    num_tasks: int = Field(8, ge=1)

    _evaluating: bool = PrivateAttr(default=False)

    @field_validator("params")
    @classmethod
    def _json_without_seed(cls, params: dict[str, Any]) -> dict[str, Any]:
        members = params.get("datasets")
        configs = [member.get("config") for member in members if isinstance(member, dict)] if members else []
        if any("seed" in config for config in (params, *configs) if isinstance(config, dict)):
            raise ValueError("the seed is drawn from the run's seed; leave it out")
        try:
            json.dumps(params)
        except TypeError as error:
            raise ValueError(f"no value of a graph file: {error}") from error
        return params

    @model_validator(mode="after")
    def _one_data_set(self) -> Self:
        if (self.dataset is None) == (self.config is None):
            raise ValueError("give either dataset, or config, the YAML file of a composite")
        if self.config is not None and self.params:
            raise ValueError(f"params are those of a dataset; write them into {self.config}")
        return self

    def prepare(self) -> None:
        """Make the data set; raises `DataError` where reasoning-gym does not know it or its config."""
        data_set_size(*self._made_of[:2])

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        """The tasks of one round."""
        dataset, config, _ = self._made_of
        size = min(data_set_size(dataset, config), MOST_ENTRIES)
        first = round * self.num_tasks
        places = [divmod(position, size) for position in range(first, first + self.num_tasks)]
        return as_rows([self._task(self._seed(rng, epoch), index) for epoch, index in places])

    def resolve(self, task_id: str) -> Task:
        """The task of an id, of whatever seed; raises `DataError` for another data set or an impossible id."""
        node, label = self.place.node, self._made_of[2]
        key = _KEY.fullmatch(task_id.removeprefix(f"{node}/")) if task_id.startswith(f"{node}/") else None
        if key is None or key["label"] != label or int(key["seed"]) >= SEEDS:
            form = f"{node}/{label}-<seed>-<index>"
            raise DataError(f"{node}: {task_id[:200]!r} is no task of this source; its ids are {form}")
        return self._task(int(key["seed"]), int(key["index"]))

    def evaluated(self, how: Evaluation) -> Self:
        """This source as it gives entries of seeds that training never draws."""
        copy = self.model_copy(update={"num_tasks": how.num_tasks or self.num_tasks})
        copy._evaluating = True
        return copy

    @property
    def _made_of(self) -> tuple[str, str, str]:
        """The data set, its config as JSON, and what stands for both in keys."""
        if self.dataset is not None:
            return self.dataset, json.dumps(self.params, sort_keys=True), self.dataset
        assert self.config is not None, "the validator wants one of the two"
        config = read_composite(self.config, file_state(self.config))
        return "composite", config, f"composite@{digest((config,), size=4)}"

    def _task(self, seed: int, index: int) -> Task:
        dataset, config, label = self._made_of
        made = make_entry(dataset, config, seed, index)
        metadata = {"source_dataset": dataset} | dict(made.entry.get("metadata", {}))
        answer = made.entry["answer"]
        return Task(
            self.task_id(f"{label}-{seed}-{index}"),
            [{"role": "user", "content": made.entry["question"]}],
            "" if answer is None else str(answer),
            plain(metadata),
            raw=made,
            kind=str(metadata["source_dataset"]),
        )

    def _seed(self, rng: np.random.Generator, epoch: int) -> int:
        low, high = (EVAL_SEEDS, SEEDS) if self._evaluating else (0, TRAINING_SEEDS)
        return int(substream(rng, "seed", epoch).integers(low, high))
