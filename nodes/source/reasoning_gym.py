"""`source.reasoning_gym`: procedurally generated, verifiable tasks from reasoning-gym."""

import json
import re
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from pydantic import Field, PrivateAttr, field_validator, model_validator

from genrl_graph.contract.data_path import DataPath
from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.graph_values import GraphValues
from genrl_graph.contract.node import Source
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.nodes.source.data.data_set import file_state
from genrl_graph.nodes.source.data.epoch import as_rows, plain
from genrl_graph.nodes.source.data.gym_entries import data_set_size, make_entry
from genrl_graph.nodes.source.data.gym_file import read_composite
from genrl_graph.seeds import digest, substream

_KEY = re.compile(r"(?P<label>[a-z0-9_]+(@[0-9a-f]{8})?)-(?P<seed>0|[1-9][0-9]{0,9})-(?P<index>0|[1-9][0-9]{0,9})")
SEEDS = 2**31  # some data sets seed numpy with seed + index, which must stay below 2**32
TRAINING_SEEDS = 2**30
EVAL_SEEDS = TRAINING_SEEDS + 2**29
MAX_ENTRIES = 2**28


class ReasoningGym(Source, name="reasoning_gym"):
    """Provides `num_tasks` new entries of a reasoning-gym data set (arXiv 2505.24760) per round.

    The data set is `dataset` with the config `params`, or a composite in reasoning-gym's own YAML format, the file
    `config`, whose seeds are ignored. Task i of round r is entry r * num_tasks + i. A data set has `size` entries per
    seed (500, unless its params set another size); then the source draws the next seed. Keys are
    `<dataset>-<seed>-<index>`, so any peer can generate any task again; for a composite file they are
    `composite@<hash of its content>-<seed>-<index>`. Raises `DataError` for an unknown data set or an invalid config.

    In many data sets entry i of seed s equals entry i - 1 of seed s + 1. Training seeds therefore lie below 2**30,
    evaluation seeds from 2**30 + 2**29 to 2**31, and a seed gives at most 2**28 entries: seed + index never coincide.
    """

    dataset: str | None = Field(
        default=None,
        min_length=1,
        description="name of a data set of reasoning-gym, such as basic_arithmetic; or give config",
    )
    config: DataPath | None = Field(
        default=None,
        min_length=1,
        description="YAML file of a composite of data sets, in reasoning-gym's format; or give dataset",
    )
    params: GraphValues = Field(default={}, description="config of the data set, without a seed")
    num_tasks: int = Field(default=8, ge=1, description="entries per round")

    _evaluating: bool = PrivateAttr(default=False)

    @field_validator("params")
    @classmethod
    def _without_seed(cls, params: dict[str, Any]) -> dict[str, Any]:
        members = params.get("datasets")
        configs = [member.get("config") for member in members if isinstance(member, dict)] if members else []
        if any("seed" in config for config in (params, *configs) if isinstance(config, dict)):
            raise ValueError("the seed is drawn from the run's seed; leave it out")
        return params

    @model_validator(mode="after")
    def _one_data_set(self) -> Self:
        if (self.dataset is None) == (self.config is None):
            raise ValueError("give either dataset, or config, the YAML file of a composite")
        if self.config is not None and self.params:
            raise ValueError(f"params are those of a dataset; write them into {self.config}")
        return self

    def prepare(self) -> None:
        """Make the data set; raises `DataError` if reasoning-gym does not know it or refuses its config."""
        data_set_size(*self._identity[:2])

    def check_data(self) -> Iterator[str]:
        """Report a config file that is missing or no composite."""
        if self.config is not None:
            try:
                read_composite(self.config, file_state(self.config))
            except DataError as error:
                yield str(error)

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        """Return the tasks of one round."""
        dataset, config, _ = self._identity
        size = min(data_set_size(dataset, config), MAX_ENTRIES)
        first = round * self.num_tasks
        places = [divmod(position, size) for position in range(first, first + self.num_tasks)]
        return as_rows([self._task(self._seed(rng, epoch), index) for epoch, index in places])

    def resolve(self, task_id: str) -> Task:
        """Return the task of an id, with any seed; raises `DataError` for another data set or an invalid id."""
        node, label = self.place.node, self._identity[2]
        key = _KEY.fullmatch(task_id.removeprefix(f"{node}/")) if task_id.startswith(f"{node}/") else None
        if key is None or key["label"] != label or int(key["seed"]) >= SEEDS:
            form = f"{node}/{label}-<seed>-<index>"
            raise DataError(f"{node}: {task_id[:200]!r} is no task of this source; its ids are {form}")
        return self._task(int(key["seed"]), int(key["index"]))

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that uses seeds which training never draws."""
        copy = self.model_copy(update={"num_tasks": how.num_tasks or self.num_tasks})
        copy._evaluating = True
        return copy

    @property
    def _identity(self) -> tuple[str, str, str]:
        """The data set, its config as JSON, and the label of both in task keys."""
        if self.dataset is not None:
            return self.dataset, json.dumps(self.params, sort_keys=True), self.dataset
        assert self.config is not None, "the validator wants one of the two"
        config = read_composite(self.config, file_state(self.config))
        return "composite", config, f"composite@{digest((config,), size=4)}"

    def _task(self, seed: int, index: int) -> Task:
        dataset, config, label = self._identity
        generated = make_entry(dataset, config, seed, index)
        metadata = {"source_dataset": dataset} | dict(generated.entry.get("metadata", {}))
        answer = generated.entry["answer"]
        return Task(
            self.task_id(f"{label}-{seed}-{index}"),
            [{"role": "user", "content": generated.entry["question"]}],
            "" if answer is None else str(answer),
            plain(metadata),
            raw=generated,
            kind=str(metadata["source_dataset"]),
        )

    def _seed(self, rng: np.random.Generator, epoch: int) -> int:
        low, high = (EVAL_SEEDS, SEEDS) if self._evaluating else (0, TRAINING_SEEDS)
        return int(substream(rng, "seed", epoch).integers(low, high))
