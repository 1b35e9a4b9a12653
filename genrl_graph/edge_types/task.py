"""One task, and the book in which nodes look tasks up by id."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Protocol

from genrl_graph.errors import DataError


@dataclass(frozen=True, slots=True)
class Task:
    """One task as its source makes it: chat messages, reference answer (may be empty), metadata.

    `kind` sorts tasks in tables of results, such as the data set that it came from or its difficulty. `raw` is what
    the source made the task from, for rewards that belong to it; it never leaves the process.
    """

    id: str
    messages: list[dict[str, str]]
    answer: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    raw: object = None
    kind: str = ""

    @property
    def question(self) -> str:
        """The text of the last message."""
        return self.messages[-1]["content"] if self.messages else ""


class Resolver(Protocol):
    """A source, seen by those who look tasks up."""

    def resolve(self, task_id: str) -> Task: ...


class TaskBook:
    """Looks a task up by its id in the reader's own source; remembers the last `size` of them."""

    def __init__(self, sources: Mapping[str, Resolver], *, size: int = 4096) -> None:
        self._sources = dict(sources)
        self._size = size
        self._known: dict[str, Task] = {}
        self._lock = RLock()  # steps that run beside a generator look tasks up too

    def __getitem__(self, task_id: str) -> Task:
        """The task; raises `DataError` for an id that no source of this graph can make again."""
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
