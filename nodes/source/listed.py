"""`source.list`: tasks that stand in the graph file."""

from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from genrl_graph.frames import Tasks
from genrl_graph.node import Source
from genrl_graph.nodes.source.batch import as_rows, row_of, rows_in_order, shuffled_rows
from genrl_graph.resources import Task


def _number_as_text(value: object) -> object:
    """YAML reads `answer: 42` as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    content: str


class ListedTask(BaseModel):
    """One task: a question or whole messages, its reference answer (a number is taken as text), metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str = ""
    messages: list[Message] = []
    answer: Annotated[str, BeforeValidator(_number_as_text)] = ""
    metadata: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if bool(self.question) == bool(self.messages):
            raise ValueError("give a task either a question or messages")
        return self

    def task(self, task_id: str) -> Task:
        """The task under this id."""
        messages = [message.model_dump() for message in self.messages]
        messages = messages or [{"role": "user", "content": self.question}]
        return Task(task_id, messages, self.answer, self.metadata, raw=self)


class ListSource(Source, name="list"):
    """Gives the listed tasks, `num_tasks` a round (all where it is None), from the beginning again after the last.

    In the order written, or, with `shuffle`, in a new order each time through. The key of a task is its place.
    """

    tasks: list[ListedTask] = Field(min_length=1)
    num_tasks: int | None = Field(None, ge=1)
    shuffle: bool = False

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.num_tasks is not None and self.num_tasks > len(self.tasks):
            raise ValueError(f"num_tasks is {self.num_tasks}, but {len(self.tasks)} tasks are listed; lower num_tasks")
        return self

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        """The tasks of one round."""
        size = len(self.tasks)
        num_tasks = self.num_tasks or size
        if self.shuffle:
            rows = shuffled_rows(rng, round=round, num_tasks=num_tasks, size=size)
        else:
            rows = rows_in_order(round=round, num_tasks=num_tasks, size=size)
        return as_rows([self.tasks[row].task(self.task_id(row)) for row in rows])

    def resolve(self, task_id: str) -> Task:
        """The task of an id; raises `DataError` for one that is not listed."""
        return self.tasks[row_of(task_id, node=self.place.node, size=len(self.tasks))].task(task_id)
