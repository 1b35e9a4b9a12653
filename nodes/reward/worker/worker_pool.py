"""Worker processes of one function: shared by all nodes that call it, kept over rounds, ended with this process."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache

from genrl_graph.nodes.reward.worker.worker import Worker

MAX_POOLS = 32


class Pool:
    """`size` workers of one function; each takes the next call as soon as it is free, and starts with its first."""

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float,
        size: int = 1,
        memory_mb: int | None = None,
        factory: Mapping[str, object] | None = None,
    ) -> None:
        self.workers = [Worker(target, timeout_s=timeout_s, memory_mb=memory_mb, factory=factory) for _ in range(size)]

    def start(self) -> None:
        """Start one worker; raises WorkerError where it cannot load its function."""
        self.workers[0].start()

    def map_rows(self, rows: Sequence[Mapping[str, object]]) -> list[object]:
        """One call per row, its items as keywords: values in the order of the rows, `Failure` for a lost one.

        Raises WorkerError only where a process cannot start.
        """
        if len(self.workers) == 1 or len(rows) == 1:
            return self.workers[0].map_rows(rows)
        todo = deque(enumerate(rows))
        values: list[object] = [None] * len(rows)

        def serve(worker: Worker) -> None:
            while todo:
                try:
                    at, row = todo.popleft()
                except IndexError:  # another thread took the last one
                    return
                (values[at],) = worker.map_rows([row])

        with ThreadPoolExecutor(len(self.workers)) as threads:
            serving = [threads.submit(serve, worker) for worker in self.workers[: len(rows)]]
            try:
                for one in wait(serving, return_when=FIRST_EXCEPTION).done:
                    one.result()
            except BaseException:  # a process that cannot start, or Ctrl-C: the other threads end now
                todo.clear()
                for worker in self.workers:
                    worker.interrupt()
                raise
        return values


@lru_cache(maxsize=MAX_POOLS)
def shared_pool(
    target: str,
    timeout_s: float,
    *,
    size: int = 1,
    memory_mb: int | None = None,
    factory: str | None = None,
    changed: int = 0,
) -> Pool:
    """The pool of a target, kept over rounds, as its imports take seconds; the one that is unused longest ends.

    `factory` is the JSON of its arguments; `changed` tells versions of the target apart.
    """
    del changed
    arguments = None if factory is None else json.loads(factory)
    return Pool(target, timeout_s=timeout_s, size=size, memory_mb=memory_mb, factory=arguments)
