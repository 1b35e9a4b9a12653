"""`source.environment`: episodes of a Gymnasium or PettingZoo environment."""

import re
from typing import Self

import numpy as np
from pydantic import Field, PrivateAttr

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Source
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.source.data.epoch import as_rows
from genrl_graph.seeds import substream

_SEED = re.compile(r"0|[1-9][0-9]{0,9}")
TRAINING_SEEDS = 2**30
SEEDS = 2**31  # those from TRAINING_SEEDS on are for evaluation


class EnvironmentSource(Source, name="environment"):
    """Gives `num_episodes` new episodes a round of one environment, each by its seed; a task's key is the seed.

    A run begins at a drawn seed and counts up, below 2**30; evaluations have the seeds from there to 2**31.
    """

    environment: Environment
    num_episodes: int = Field(16, ge=1, le=2**20, description="episodes of a round")

    _evaluating: bool = PrivateAttr(default=False)

    def prepare(self) -> None:
        """Make the environment; raises `DataError` where there is none, or none that a policy here can play."""
        self.environment.spaces()

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        """The episodes of one round."""
        begin = int(substream(rng, "seed").integers(TRAINING_SEEDS)) + round * self.num_episodes
        seeds = [(begin + at) % TRAINING_SEEDS for at in range(self.num_episodes)]
        return as_rows([self._task(seed + TRAINING_SEEDS * self._evaluating) for seed in seeds])

    def resolve(self, task_id: str) -> Task:
        """The episode of an id; raises `DataError` for one that holds no seed."""
        node = self.place.node
        key = task_id.removeprefix(f"{node}/")
        if key == task_id or not _SEED.fullmatch(key) or int(key) >= SEEDS:
            raise DataError(
                f"{node}: {task_id[:200]!r} is no task of this source; its ids are {node}/<seed below 2**31>"
            )
        return self._task(int(key))

    def evaluated(self, how: Evaluation) -> Self:
        """This source as it gives episodes of seeds that training never draws."""
        copy = self.model_copy(update={"num_episodes": how.num_tasks or self.num_episodes})
        copy._evaluating = True
        return copy

    def _task(self, seed: int) -> Task:
        metadata = {"environment": self.environment.model_dump(mode="json"), "seed": seed}
        return Task(self.task_id(seed), [], "", metadata, kind=self.environment.id)
