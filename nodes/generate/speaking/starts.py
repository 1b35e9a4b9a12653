"""The start of an episode: the environment, the seed, and the task that it plays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genrl_graph.edge_types.task import Task
from genrl_graph.errors import NodeFailed
from genrl_graph.nodes.games.environment import Environment
from genrl_graph.nodes.generate.prompting.prompts import AskedTask
from genrl_graph.seeds import digest


@dataclass(frozen=True, slots=True)
class Start:
    """The start of an episode; `row` is the task that the environment gets, None where the seed is all of it."""

    task: AskedTask
    environment: Environment
    seed: int
    row: Mapping[str, Any] | None = None


def start_of(task: Task, environment: Environment | None) -> Start:
    """Return the start of a task's episode, in `environment` if one is given, else in the one that the task names.

    Raises `NodeFailed` if neither is there.
    """
    asked = AskedTask(task.id, task.question, task.metadata, task.messages)
    if environment is None:
        return Start(asked, *environment_of(task.metadata, task.id))
    row = {**task.metadata, "prompt": task.messages} | ({"answer": task.answer} if task.answer else {})
    return Start(asked, environment, int(digest((task.id,), size=4), 16) % 2**31, row)


def environment_of(metadata: Mapping[str, object], task_id: str) -> tuple[Environment, int]:
    """Return the environment and the seed of a task of `source.environment`; raises `NodeFailed` for another task."""
    environment, seed = metadata.get("environment"), metadata.get("seed")
    if environment is None or not isinstance(seed, int):
        raise NodeFailed(
            f"task {task_id!r} names no environment and seed; wire a source.environment, or set `environment`"
        )
    return Environment.model_validate(environment), seed
