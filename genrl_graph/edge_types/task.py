"""Tasks, and the book in which nodes look them up by id."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Protocol

from genrl_graph.errors import DataError


@dataclass(frozen=True, slots=True)
class Task:
    """One task from a source: chat messages, reference answer (may be empty), metadata.

    `kind` groups tasks in tables of results, for example by data set or difficulty. `raw` is the record from which the
    source made the task, for rewards that know its format; it never leaves the process.
    """

    id: str
    messages: list[dict[str, str]]
    answer: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    raw: object = None
    kind: str = ""

    @property
    def question(self) -> str:
        """Return the text of the last message, or "" without messages."""
        return self.messages[-1]["content"] if self.messages else ""


class Resolver(Protocol):
    """The part of a source that a task book needs."""

    def resolve(self, task_id: str) -> Task:
        """Return the task of an id; raises `DataError` if the source cannot make it."""
        ...


class TaskBook:
    """Looks up tasks by id in the peer's own sources; caches the last `size` tasks."""

    def __init__(self, sources: Mapping[str, Resolver], *, size: int = 4096) -> None:
        self._sources = dict(sources)
        self._size = size
        self._known: dict[str, Task] = {}
        self._lock = RLock()  # background steps look up tasks too

    def __getitem__(self, task_id: str) -> Task:
        """Return the task of an id; raises `DataError` if no source of this graph can make it."""
        with self._lock:
            task = self._known.get(task_id)
            if task is None:
                task = self._resolve(task_id)
                while len(self._known) >= self._size:
                    self._known.pop(next(iter(self._known)))
                self._known[task_id] = task
            return task

    def _resolve(self, task_id: str) -> Task:
        name, _, key = task_id.partition("/")
        source = self._sources.get(name)
        if source is None or not key:
            known = ", ".join(self._sources) or "none"
            raise DataError(f"task {task_id!r}: no source named {name!r} in this graph; sources: {known}")
        return source.resolve(task_id)
