"""`source.environment`: episodes of an environment of a library, of a server, or of your own."""

import re
from collections.abc import Iterable
from typing import Self

import numpy as np
from pydantic import Field, PrivateAttr, field_validator

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Node, Source
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.source.data.epoch import as_rows
from genrl_graph.nodes.source.list import ListedTask, ListSource
from genrl_graph.seeds import substream

_SEED = re.compile(r"0|[1-9][0-9]{0,9}")
TRAINING_SEEDS = 2**30
SEEDS = 2**31  # seeds from TRAINING_SEEDS on are for evaluation


class EnvironmentSource(Source, name="environment"):
    """Provides `num_episodes` new episodes of one environment per round; a task's key is the seed of its episode.

    Environments are those of Gymnasium (arXiv 2407.17032), PettingZoo (arXiv 2009.14471), OpenSpiel (arXiv 1908.09453),
    TextArena (arXiv 2504.11442), OpenEnv servers, and your own. `generate.play` plays those of numbers,
    `generate.dialogue` those of text. A run starts at a random seed below 2**30 and counts up modulo 2**30; evaluations
    use seeds from 2**30 to 2**31.
    """

    environment: Environment = Field(description="the environment that is played")
    num_episodes: int = Field(default=16, ge=1, le=2**20, description="episodes per round")

    _evaluating: bool = PrivateAttr(default=False)

    @field_validator("environment")
    @classmethod
    def _declared(cls, environment: Environment) -> Environment:
        environment.declare()
        return environment

    def check_data(self) -> Iterable[str]:
        """Return why the environment cannot be opened here, for the command `check`."""
        try:
            self.environment.describe()
        except DataError as error:
            return [str(error)]
        return []

    def prepare(self) -> None:
        """Make the environment; raises `DataError` if it, or its server, is not there or is not as it is described."""
        self.environment.prove()

    def prepare_to_resolve(self) -> None:
        """Do nothing: an episode follows from its id."""

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        """Return the episodes of one round."""
        begin = int(substream(rng, "seed").integers(TRAINING_SEEDS)) + round * self.num_episodes
        seeds = [(begin + at) % TRAINING_SEEDS for at in range(self.num_episodes)]
        return as_rows([self._task(seed + TRAINING_SEEDS * self._evaluating) for seed in seeds])

    def resolve(self, task_id: str) -> Task:
        """Return the episode of a task id; raises `DataError` for an id without a valid seed."""
        node = self.place.node
        key = task_id.removeprefix(f"{node}/")
        if key == task_id or not _SEED.fullmatch(key) or int(key) >= SEEDS:
            raise DataError(
                f"{node}: {task_id[:200]!r} is no task of this source; its ids are {node}/<seed below 2**31>"
            )
        return self._task(int(key))

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that uses seeds which training never draws."""
        copy = self.model_copy(update={"num_episodes": how.num_tasks or self.num_episodes})
        copy._evaluating = True
        return copy

    def dry(self) -> Node:
        """Return this source, or for a server's environment a list of episodes of a stand-in."""
        server = self.environment.remote
        if server is None:
            return self
        params = {"seats": server.seats, "legal": server.legal is not None}
        stand_in = Environment(id="stand_in", kind="text", params=params).model_dump(mode="json")
        episodes = [
            ListedTask(question=f"episode {seed}", metadata={"environment": stand_in, "seed": seed})
            for seed in range(self.num_episodes)
        ]
        return ListSource(shared=self.shared, tasks=episodes, eval_tasks=episodes).placed(self.place)

    def _task(self, seed: int) -> Task:
        metadata = {"environment": self.environment.model_dump(mode="json"), "seed": seed}
        return Task(self.task_id(seed), [], "", metadata, kind=self.environment.id)
