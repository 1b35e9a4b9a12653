"""`source.list`: tasks listed in the graph file."""

from collections.abc import Sequence
from typing import Annotated, Any, Self, cast

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from genrl_graph.contract.evaluation import Evaluation
from genrl_graph.contract.node import Source
from genrl_graph.contract.plain import OrDict
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.edge_types.task import Task
from genrl_graph.errors import DataError, ParamError
from genrl_graph.nodes.source.data.epoch import EVAL_KEY_PREFIX, as_rows, row_of, rows_in_order, shuffled_rows
from genrl_graph.nodes.source.data.values import chat_problem, json_of


def _whole_number_as_text(value: object) -> object:
    """Convert a whole number to its digits: YAML reads `answer: 42` as a number. Other numbers have no single form."""
    if isinstance(value, float):
        raise ValueError("this number has more than one spelling, and answers are text; put it in quotes")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(json_of(value, "metadata"))
    except DataError as error:
        raise ValueError(str(error)) from error


Text = Annotated[str, BeforeValidator(_whole_number_as_text, json_schema_input_type=str | int)]


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str = Field(description="author of the message: system, user or assistant")
    content: Text = Field(description="text of the message")


class ListedTask(BaseModel):
    """One task: a question or chat messages, its reference answer (a whole number becomes text), metadata and kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Text = Field(default="", description="the question, a chat of one user message; or give messages")
    messages: list[Message] = Field(default=[], description="chat whose last message is the question")
    answer: Text = Field(default="", description="reference answer, which only rewards see; empty: none")
    metadata: Annotated[dict[str, Any], AfterValidator(_as_json)] = Field(
        default={}, description="further values, which templates and reward functions can read"
    )
    kind: Text = Field(default="", description="label by which evaluations group tasks; empty: the source's name")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if bool(self.question) == bool(self.messages):
            raise ValueError("give a task either a question or messages")
        problem = chat_problem([message.model_dump() for message in self.messages]) if self.messages else ""
        if problem:
            raise ValueError(problem)
        return self

    def task(self, task_id: str) -> Task:
        """Return the task under this id."""
        messages = [message.model_dump() for message in self.messages]
        messages = messages or [{"role": "user", "content": self.question}]
        return Task(task_id, messages, self.answer, self.metadata, raw=self, kind=self.kind)


class ListSource(Source, name="list"):
    """Provides the listed tasks, `num_tasks` per round (None: all), starting over after the last.

    Tasks come in the order written, or with `shuffle` in a new order per epoch. The key of a task is its position in
    the list. An evaluation uses `eval_tasks`, with keys `eval-<position>`.
    """

    tasks: Annotated[Sequence[OrDict[ListedTask]], AfterValidator(tuple)] = Field(
        min_length=1, description="the tasks to train on"
    )
    eval_tasks: Annotated[Sequence[OrDict[ListedTask]], AfterValidator(tuple)] = Field(
        default=(), description="the tasks of evaluations"
    )
    num_tasks: int | None = Field(
        default=None, ge=1, description="tasks per round, in the order of the list, which starts over; null: all"
    )
    shuffle: bool = Field(default=False, description="whether each pass over the list has an order of its own")

    _evaluating: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.num_tasks is not None and self.num_tasks > len(self.tasks):
            raise ValueError(f"num_tasks is {self.num_tasks}, but {len(self.tasks)} tasks are listed; lower num_tasks")
        return self

    def run(self, *, rng: np.random.Generator, round: int) -> Tasks:
        """Return the tasks of one round."""
        prefix, listed = self._listed(evaluating=self._evaluating)
        size = len(listed)
        num_tasks = self.num_tasks or size
        if self.shuffle:
            rows = shuffled_rows(rng, round=round, num_tasks=num_tasks, size=size)
        else:
            rows = rows_in_order(round=round, num_tasks=num_tasks, size=size)
        return as_rows([listed[row].task(self.task_id(f"{prefix}{row}")) for row in rows])

    def resolve(self, task_id: str) -> Task:
        """Return the task of an id; raises `DataError` for a task that is not listed."""
        node = self.place.node
        prefix, listed = self._listed(evaluating=task_id.startswith(f"{node}/{EVAL_KEY_PREFIX}"))
        return listed[row_of(task_id, node=node, size=len(listed), prefix=prefix)].task(task_id)

    def _listed(self, *, evaluating: bool) -> tuple[str, Sequence[ListedTask]]:
        """Return the prefix of the keys and the tasks, of training or of evaluations; pydantic has made them tasks."""
        listed = self.eval_tasks if evaluating else self.tasks
        return EVAL_KEY_PREFIX if evaluating else "", cast(Sequence[ListedTask], listed)

    def evaluated(self, how: Evaluation) -> Self:
        """Return a copy that provides `eval_tasks`, at most all."""
        if not self.eval_tasks:
            raise ParamError(f"{self.type_name}: has no tasks to evaluate on; list eval_tasks")
        num_tasks = how.num_tasks or self.num_tasks or len(self.eval_tasks)
        copy = self.model_copy(update={"num_tasks": min(num_tasks, len(self.eval_tasks))})
        copy._evaluating = True
        return copy
