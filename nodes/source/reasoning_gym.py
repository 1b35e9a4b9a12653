"""`source.reasoning_gym`: procedural tasks with a verifier each, from reasoning-gym."""

import json
import re
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from genrl_graph.errors import DataError
from genrl_graph.frames import Tasks
from genrl_graph.node import Source
from genrl_graph.nodes.source.batch import as_rows, plain
from genrl_graph.nodes.source.gym_entries import data_set_size, make_entry
from genrl_graph.resources import Task
from genrl_graph.seeds import substream

_KEY = re.compile(r"(?P<dataset>[a-z0-9_]+)-(?P<seed>0|[1-9][0-9]{0,9})-(?P<index>0|[1-9][0-9]{0,9})")
SEEDS = 2**31  # some data sets add the index to the seed and give numpy the sum, below 2**32


class ReasoningGym(Source, name="reasoning_gym"):
    """Gives `num_tasks` new entries a round of one reasoning-gym data set; `params` is its config.

    Task i of round r is the entry at r * num_tasks + i. A data set has `size` entries a seed (500, unless its
    params say otherwise), then the source draws the next seed. Keys are `<dataset>-<seed>-<index>`, so any peer
    makes any task again. Raises `DataError` for a data set or config that reasoning-gym does not know.
    """

    dataset: str = Field(min_length=1)
    params: dict[str, Any] = {}
    num_tasks: int = Field(8, ge=1)

    @field_validator("params")
    @classmethod
    def _json_without_seed(cls, params: dict[str, Any]) -> dict[str, Any]:
        if "seed" in params:
            raise ValueError("the seed is drawn from the run's seed; leave it out")
        try:
            json.dumps(params)
        except TypeError as error:
            raise ValueError(f"no value of a graph file: {error}") from error
        return params

    def prepare(self) -> None:
        """Make the data set; raises `DataError` where reasoning-gym does not know it or its config."""
        data_set_size(self.dataset, self._config)

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        """The tasks of one round."""
        size = data_set_size(self.dataset, self._config)
        first = round * self.num_tasks
        places = [divmod(position, size) for position in range(first, first + self.num_tasks)]
        return as_rows([self._task(_seed(rng, epoch), index) for epoch, index in places])

    def resolve(self, task_id: str) -> Task:
        """The task of an id, of whatever seed; raises `DataError` for another data set or an impossible id."""
        node = self.place.node
        key = _KEY.fullmatch(task_id.removeprefix(f"{node}/")) if task_id.startswith(f"{node}/") else None
        if key is None or key["dataset"] != self.dataset or int(key["seed"]) >= SEEDS:
            form = f"{node}/{self.dataset}-<seed>-<index>"
            raise DataError(f"{node}: {task_id[:200]!r} is no task of this source; its ids are {form}")
        return self._task(int(key["seed"]), int(key["index"]))

    @property
    def _config(self) -> str:
        return json.dumps(self.params, sort_keys=True)

    def _task(self, seed: int, index: int) -> Task:
        made = make_entry(self.dataset, self._config, seed, index)
        metadata = {"source_dataset": self.dataset} | dict(made.entry.get("metadata", {}))
        answer = made.entry["answer"]
        return Task(
            self.task_id(f"{self.dataset}-{seed}-{index}"),
            [{"role": "user", "content": made.entry["question"]}],
            "" if answer is None else str(answer),
            plain(metadata),
            raw=made,
        )


def _seed(rng: np.random.Generator, epoch: int) -> int:
    """Drawn anew: entry i of seed s is often entry i - 1 of seed s + 1."""
    return int(substream(rng, "seed", epoch).integers(SEEDS))
